//! The client roles of `publish-subscribe`, with our broker and with a real nats-server.

use std::sync::mpsc;
use std::thread;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::nats::{Kind, for_both, real};
use crate::peer::ClosedPort;
use crate::support::{TIMEOUT, fails, missing, run, start, succeeds, trial, until};

pub fn trials() -> Vec<Trial> {
    let nats = missing("nats-server");
    let mut trials = for_both(
        "nats_client",
        &[
            ("publish_and_subscribe", publish_and_subscribe),
            ("request_and_reply", request_and_reply),
            ("a_request_without_a_reply", a_request_without_a_reply),
            ("another_server_takes_over", another_server_takes_over),
            ("the_server_comes_back", the_server_comes_back),
        ],
    );
    trials.push(trial("nats_client::nats_server::a_cluster", nats, a_cluster));
    trials.push(trial("nats_client::nats_server::a_full_server", nats, a_full_server));
    trials
}

const MODE: &str = "publish-subscribe";

fn publish_and_subscribe(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let subscriber = start(MODE, &["subscribe", &broker.addr, "sport.>"])?;
    subscriber.expect("subscribed to sport.>")?;
    let mut workers = Vec::new();
    for _ in 0..2 {
        let worker = start(MODE, &["subscribe", &broker.addr, "jobs", "workers"])?;
        worker.expect("subscribed to jobs")?;
        workers.push(worker);
    }
    for (subject, text) in [("sport.x", "hello"), ("nobody.listens", "x"), ("jobs", "one")] {
        let output = run(MODE, &["publish", &broker.addr, subject, text])?;
        ensure!(succeeds(&output)?.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
    subscriber.expect("sport.x: hello")?;
    let (sender, taken) = mpsc::channel();
    for worker in workers {
        let sender = sender.clone();
        thread::spawn(move || sender.send(worker.expect("jobs: one").is_ok()));
    }
    ensure!(taken.recv_timeout(TIMEOUT)?, "no worker got it");
    Ok(())
}

fn request_and_reply(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut responder = start(MODE, &["respond", &broker.addr, "time.*", "noon"])?;
    responder.expect("subscribed to time.*")?;
    for _ in 0..3 {
        let output = run(MODE, &["request", &broker.addr, "time.now", "please"])?;
        ensure!(succeeds(&output)? == "noon\n", "{output:?}");
    }
    // A message that is not a request does not end the responder.
    succeeds(&run(MODE, &["publish", &broker.addr, "time.now", "x"])?)?;
    ensure!(succeeds(&run(MODE, &["request", &broker.addr, "time.x", "", "20"])?)? == "noon\n");
    responder.signal(Signal::SIGINT)?;
    ensure!(responder.wait()?.success());
    Ok(())
}

fn a_request_without_a_reply(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let request = |seconds| run(MODE, &["request", &broker.addr, "time", "x", seconds]);
    // A server with headers reports that nobody has subscribed. Our broker has none.
    match kind {
        Kind::Real => fails(&request("60")?, 1, "no responders on time")?,
        Kind::Ours => fails(&request("0.3")?, 1, "no reply on time within 0.3 s")?,
    }
    let subscriber = start(MODE, &["subscribe", &broker.addr, "time"])?;
    subscriber.expect("subscribed")?;
    fails(&request("0.3")?, 1, "no reply on time within 0.3 s")?;
    subscriber.expect("time: x").map(drop)
}

fn another_server_takes_over(kind: Kind) -> Result<()> {
    let (mut one, two) = (kind.start()?, kind.start()?);
    let both = format!("{},{}", one.addr, two.addr);
    let subscriber = start(MODE, &["subscribe", &both, "a"])?;
    subscriber.expect("subscribed to a")?;
    one.process.kill()?;
    subscriber.expect("the server is lost")?;
    subscriber.expect("subscribed to a")?;
    // The publisher finds the server that is left, too.
    succeeds(&run(MODE, &["publish", &both, "a", "hello"])?)?;
    subscriber.expect("a: hello").map(drop)
}

fn the_server_comes_back(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut subscriber = start(MODE, &["subscribe", &broker.addr, "a"])?;
    subscriber.expect("subscribed to a")?;
    let broker = broker.restart()?;
    subscriber.expect("the server is lost")?;
    subscriber.expect("subscribed to a")?;
    succeeds(&run(MODE, &["publish", &broker.addr, "a", "hello"])?)?;
    subscriber.expect("a: hello")?;
    drop(broker);
    subscriber.expect("the server is lost")?;
    subscriber.signal(Signal::SIGTERM)?;
    ensure!(subscriber.wait()?.success(), "it must end while it looks for a server");
    Ok(())
}

/// Two real servers: what is published to one reaches the subscribers of the other.
fn a_cluster() -> Result<()> {
    let [route_one, route_two] = [ClosedPort::new()?, ClosedPort::new()?];
    let [one, two] = [ClosedPort::new()?, ClosedPort::new()?];
    let start_real = |at: &ClosedPort, own: &ClosedPort, other: &ClosedPort| {
        let [own, other] = [own, other].map(|route| format!("nats://{}", route.addr));
        real(at, &["--cluster_name", "test", "--cluster", &own, "--routes", &other])
    };
    let first = start_real(&one, &route_one, &route_two)?;
    let mut second = start_real(&two, &route_two, &route_one)?;
    first.expect("Route connection created")?;
    let both = format!("{},{}", two.addr, one.addr);
    let subscriber = start(MODE, &["subscribe", &both, "a"])?;
    subscriber.expect("subscribed to a")?;
    // The subscription must first reach the other server.
    until("a message crosses the cluster", || {
        succeeds(&run(MODE, &["publish", &one.addr, "a", "across"])?)?;
        Ok(subscriber.has("a: across"))
    })?;
    second.kill()?;
    subscriber.expect("the server is lost")?;
    subscriber.expect("subscribed to a")?;
    succeeds(&run(MODE, &["publish", &both, "a", "after"])?)?;
    subscriber.expect("a: after").map(drop)
}

/// The server says why it closes the connection, and the client shows that.
fn a_full_server() -> Result<()> {
    let (closed, dir) = (ClosedPort::new()?, TempDir::new()?);
    let config = dir.path().join("nats.conf");
    std::fs::write(&config, "max_connections: 1\n")?;
    let _server = real(&closed, &["-c", &config.to_string_lossy()])?;
    let subscriber = start(MODE, &["subscribe", &closed.addr, "a"])?;
    subscriber.expect("subscribed")?;
    for _ in 0..5 {
        let output = run(MODE, &["publish", &closed.addr, "a", "x"])?;
        fails(&output, 1, "the server reports \"maximum connections exceeded\"")?;
    }
    Ok(())
}
