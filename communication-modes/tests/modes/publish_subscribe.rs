//! The same checks of the broker of `publish-subscribe` and of nats-server; and our client, and a
//! real one, against both.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;

use crate::support::{
    Check, Door, Peer, Shut, fails, find, missing, run, server, start, text, trial, trials, until,
};

pub fn trials() -> Vec<Trial> {
    let checks: [Check<Kind>; 12] = [
        ("greets_and_answers", greets_and_answers),
        ("wildcards", wildcards),
        ("queue_groups", queue_groups),
        ("unsubscribe", unsubscribe),
        ("payloads_of_all_kinds", payloads_of_all_kinds),
        ("a_byte_at_a_time", a_byte_at_a_time),
        ("echo_can_be_switched_off", echo_can_be_switched_off),
        ("refusals", refusals),
        ("errors_that_end_it", errors_that_end_it),
        ("everyone_sees_the_same_order", everyone_sees_the_same_order),
        ("our_client", our_client),
        ("another_server_takes_over", another_server_takes_over),
    ];
    let nats = missing("nats-server");
    let mut trials = trials!("publish_subscribe":
        a_subscriber_that_does_not_read_is_dropped who_is_silent_is_asked
        all_is_delivered_after_a_fin subscriptions_are_bounded no_server
    );
    for (name, check) in checks {
        let ours = move || check(Kind::Ours);
        trials.push(trial(format!("publish_subscribe::{name}"), None, ours));
        let real = move || check(Kind::Real);
        trials.push(trial(format!("publish_subscribe::nats_server::{name}"), nats, real));
    }
    trials.push(trial("publish_subscribe::nats_server::a_cluster", nats, a_cluster));
    let client = (!has_nats_py()).then_some("python3 with nats-py");
    trials.push(trial("publish_subscribe::nats_py", client, || nats_py(Kind::Ours)));
    let both = nats.or(client);
    trials.push(trial("publish_subscribe::nats_server::nats_py", both, || nats_py(Kind::Real)));
    trials
}

#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Real,
}

/// A running broker.
struct Broker {
    process: Process,
    addr: String,
    _reserved: Option<Shut>,
}

impl Kind {
    fn start(self) -> Result<Broker> {
        match self {
            Self::Ours => {
                let process = server("publish-subscribe", &["serve", "127.0.0.1:0"])?;
                let addr = process.addr.clone();
                Ok(Broker { process, addr, _reserved: None })
            }
            Self::Real => real(Shut::new()?, &[]),
        }
    }
}

fn real(shut: Shut, more: &[&str]) -> Result<Broker> {
    let args = [&["-a", "127.0.0.1", "-p", shut.port()], more].concat();
    let process = Process::start("", Path::new(&find("nats-server")), &args)?;
    process.expect("Server is ready")?;
    let addr = shut.addr.clone();
    Ok(Broker { process, addr, _reserved: Some(shut) })
}

/// A client that is greeted, and that wants no `+OK`.
fn client(broker: &Broker) -> Result<Peer> {
    let mut peer = Peer::connect(&broker.addr)?;
    ensure!(peer.line()?.starts_with("INFO {"));
    peer.send("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
    done(&mut peer)?;
    Ok(peer)
}

/// Waits until the broker has done what was sent.
fn done(peer: &mut Peer) -> Result<()> {
    peer.send("PING\r\n")?;
    peer.lines(&["PONG"])
}

fn greets_and_answers(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = Peer::connect(&broker.addr)?;
    let info = peer.line()?;
    for part in ["INFO {", "\"server_id\":", "\"version\":", "\"max_payload\":1048576"] {
        ensure!(info.contains(part), "{info}");
    }
    peer.send("connect {}\r\nPING\r\nSUB a 1\r\nPUB a 2\r\nhi\r\nUNSUB 1\r\n")?;
    let mut lines = (0..7).map(|_| peer.line()).collect::<Result<Vec<_>>>()?;
    // The answer to PUB and the message may come in either order.
    lines.sort_unstable();
    ensure!(lines == ["+OK", "+OK", "+OK", "+OK", "MSG a 1 2", "PONG", "hi"], "{lines:?}");
    Ok(())
}

fn wildcards(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut one, mut two) = (client(&broker)?, client(&broker)?);
    one.send("SUB a.*.c star\r\nSUB a.> rest\r\nSUB other 1\r\n")?;
    done(&mut one)?;
    two.send(
        "PUB a.b.c 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a.b answer.to 1\r\n3\r\nPUB a.b.c.d 1\r\n4\r\n",
    )?;
    done(&mut two)?;
    let mut first = [one.line()?, one.line()?, one.line()?, one.line()?];
    first.sort_unstable();
    ensure!(first == ["1", "1", "MSG a.b.c rest 1", "MSG a.b.c star 1"], "{first:?}");
    one.lines(&["MSG a.b rest answer.to 1", "3", "MSG a.b.c.d rest 1", "4"])?;
    done(&mut one)
}

/// Of each group one gets it, whatever pattern it subscribed with; the others all.
fn queue_groups(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut workers = Vec::new();
    for pattern in ["jobs", "jobs", "*"] {
        let mut worker = client(&broker)?;
        worker.send(format!("SUB {pattern} workers 1\r\n"))?;
        done(&mut worker)?;
        workers.push(worker);
    }
    let mut watcher = client(&broker)?;
    watcher.send("SUB jobs 1\r\n")?;
    done(&mut watcher)?;
    for id in 100..200 {
        watcher.send(format!("PUB jobs 3\r\n{id}\r\n"))?;
    }
    for id in 100..200 {
        watcher.lines(&["MSG jobs 1 3", &id.to_string()])?;
    }
    // The watcher may have its message before the worker has.
    done(&mut watcher)?;
    let mut seen = BTreeSet::new();
    for mut worker in workers {
        worker.send("PING\r\n")?;
        let mut its_own = 0;
        while worker.line()? != "PONG" {
            let id = worker.line()?;
            ensure!(seen.insert(id.clone()), "{id} came twice");
            its_own += 1;
        }
        // In turns here, at random there: none of 100 for one of three is a chance of 10^-18.
        ensure!(its_own > 0, "a worker got nothing");
    }
    ensure!(seen.len() == 100, "{} of 100", seen.len());
    Ok(())
}

fn unsubscribe(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    peer.send("SUB a 1\r\nUNSUB 1\r\nPUB a 1\r\nx\r\n")?;
    done(&mut peer)?;
    // Two more, and no third.
    peer.send("SUB a 2\r\nUNSUB 2 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\n")?;
    peer.lines(&["MSG a 2 1", "1", "MSG a 2 1", "2"])?;
    done(&mut peer)?;
    // The one that came before counts.
    peer.send("SUB a 3\r\nPUB a 1\r\n1\r\nUNSUB 3 1\r\nPUB a 1\r\n2\r\n")?;
    peer.lines(&["MSG a 3 1", "1"])?;
    done(&mut peer)
}

fn payloads_of_all_kinds(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut one, mut two) = (client(&broker)?, client(&broker)?);
    one.send("SUB a 1\r\n")?;
    done(&mut one)?;
    let large: Vec<u8> = (0..1_048_576_u32).map(|n| (n % 251) as u8).collect();
    for payload in [&b""[..], b"\r\n", b"PUB a 3\r\nabc\r\n", b"\0\xff\xfe", &large] {
        two.send(format!("PUB a {}\r\n", payload.len()))?;
        two.send(payload)?;
        two.send("\r\n")?;
        one.lines(&[&format!("MSG a 1 {}", payload.len())])?;
        ensure!(one.bytes(payload.len())? == payload, "{} bytes, others", payload.len());
        ensure!(one.bytes(2)? == b"\r\n");
    }
    Ok(())
}

fn a_byte_at_a_time(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    for byte in "SUB a 1\r\nPUB a 5\r\nhello\r\n".bytes() {
        peer.send([byte])?;
    }
    peer.lines(&["MSG a 1 5", "hello"])
}

fn echo_can_be_switched_off(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut one, mut two) = (client(&broker)?, client(&broker)?);
    one.send("CONNECT {\"verbose\":false,\"echo\":false,\"protocol\":1}\r\nSUB a 1\r\n")?;
    two.send("SUB a 1\r\n")?;
    done(&mut two)?;
    one.send("PUB a 1\r\nx\r\n")?;
    two.lines(&["MSG a 1 1", "x"])?;
    done(&mut one)
}

fn refusals(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    for subject in ["a..b", ".a", "a.", "a.>.b"] {
        peer.send(format!("SUB {subject} 1\r\n"))?;
        peer.lines(&["-ERR 'Invalid Subject'"])?;
    }
    done(&mut peer)
}

fn errors_that_end_it(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut other, long) = (client(&broker)?, "x".repeat(100_000));
    for (nonsense, error) in [
        ("HELLO\r\n", "-ERR 'Unknown Protocol Operation'"),
        ("GET / HTTP/1.1\r\n\r\n", "-ERR 'Unknown Protocol Operation'"),
        ("PUB a 1048577\r\n", "-ERR 'Maximum Payload Violation'"),
        ("PUB a 99999999999\r\n", "-ERR '"),
        ("PUB a nine\r\n", "-ERR '"),
        ("PUB a 1\r\nlonger\r\n", "-ERR '"),
        (&long, "-ERR '"),
        (&format!("SUB {long}\r\n"), "-ERR '"),
    ] {
        let mut peer = client(&broker)?;
        // It may be closed before all is sent.
        let _ = peer.send(nonsense);
        // Where the words differ, the real one may close without any.
        if matches!(kind, Kind::Ours) || error != "-ERR '" {
            let line = peer.line()?;
            ensure!(line.starts_with(error), "{nonsense:.20}: {line}");
        }
        peer.is_over()?;
    }
    done(&mut other)
}

fn everyone_sees_the_same_order(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut readers = [client(&broker)?, client(&broker)?];
    for reader in &mut readers {
        reader.send("SUB a 1\r\n")?;
        done(reader)?;
    }
    let publish = |mut peer: Peer, name: char| -> Result<()> {
        for id in 100..300 {
            peer.send(format!("PUB a 4\r\n{name}{id}\r\n"))?;
        }
        done(&mut peer)
    };
    let (one, two) = (client(&broker)?, client(&broker)?);
    let thread = thread::spawn(move || publish(one, 'a'));
    publish(two, 'b')?;
    thread.join().map_err(|_| anyhow!("a publisher panicked"))??;
    let mut seen = Vec::new();
    for reader in &mut readers {
        let lines = (0..800).map(|_| reader.line()).collect::<Result<Vec<_>>>()?;
        seen.push(lines);
    }
    // A real server promises the order of each publisher, ours that of all.
    if matches!(kind, Kind::Ours) {
        ensure!(seen[0] == seen[1], "the readers saw another order");
    }
    for lines in seen {
        for name in ['a', 'b'] {
            let its_own = lines.iter().filter(|line| line.starts_with(name));
            ensure!(
                its_own.eq((100..300).map(|id| format!("{name}{id}")).collect::<Vec<_>>().iter())
            );
        }
    }
    Ok(())
}

/// The roles `subscribe` and `publish`.
fn our_client(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let subscriber = start("publish-subscribe", &["subscribe", &broker.addr, "news.>"])?;
    subscriber.expect("subscribed to news.>")?;
    let mut workers = Vec::new();
    for _ in 0..2 {
        let worker = start("publish-subscribe", &["subscribe", &broker.addr, "jobs", "workers"])?;
        worker.expect("subscribed to jobs")?;
        workers.push(worker);
    }
    for (subject, text) in [("news.x", "hello"), ("nobody.listens", "x"), ("jobs", "one")] {
        let output = run("publish-subscribe", &["publish", &broker.addr, subject, text])?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    subscriber.expect("news.x: hello")?;
    let (sender, taken) = mpsc::channel();
    for worker in workers {
        let sender = sender.clone();
        thread::spawn(move || sender.send(worker.expect("jobs: one").is_ok()));
    }
    ensure!(taken.recv_timeout(Duration::from_secs(20))?, "no worker got it");
    let error = "\"Invalid Subject\"";
    let output = run("publish-subscribe", &["subscribe", &broker.addr, "a..b"])?;
    ensure!(output.status.code() == Some(1) && text(&output.stderr).contains(error), "{output:?}");
    Ok(())
}

fn another_server_takes_over(kind: Kind) -> Result<()> {
    let (mut one, two) = (kind.start()?, kind.start()?);
    let both = format!("{},{}", one.addr, two.addr);
    let subscriber = start("publish-subscribe", &["subscribe", &both, "a"])?;
    subscriber.expect("subscribed to a")?;
    one.process.kill()?;
    subscriber.expect("subscribed to a")?;
    // The publisher finds the one that is there, too.
    let output = run("publish-subscribe", &["publish", &both, "a", "hello"])?;
    ensure!(output.status.success(), "{output:?}");
    subscriber.expect("a: hello").map(drop)
}

/// Two real servers: what is published to one gets to the subscribers of the other.
fn a_cluster() -> Result<()> {
    let routes = [Shut::new()?, Shut::new()?];
    let urls = [format!("nats://{}", routes[0].addr), format!("nats://{}", routes[1].addr)];
    let args = |own: &str, other: &str| {
        ["--cluster_name", "test", "--cluster", own, "--routes", other].map(str::to_owned)
    };
    let start_real = |own, other| -> Result<Broker> {
        let args = args(own, other);
        real(Shut::new()?, &args.each_ref().map(String::as_str))
    };
    let one = start_real(&urls[0], &urls[1])?;
    let mut two = start_real(&urls[1], &urls[0])?;
    one.process.expect("Route connection created")?;
    let both = format!("{},{}", two.addr, one.addr);
    let subscriber = start("publish-subscribe", &["subscribe", &both, "a"])?;
    subscriber.expect("subscribed to a")?;
    // That there is a subscriber must first get from the one server to the other.
    until("it gets through", || {
        let output = run("publish-subscribe", &["publish", &one.addr, "a", "across"])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(subscriber.has("a: across"))
    })?;
    two.process.kill()?;
    subscriber.expect("subscribed to a")?;
    let output = run("publish-subscribe", &["publish", &both, "a", "after"])?;
    ensure!(output.status.success(), "{output:?}");
    subscriber.expect("a: after").map(drop)
}

fn a_subscriber_that_does_not_read_is_dropped() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let (mut deaf, mut reader, mut publisher) =
        (client(&broker)?, client(&broker)?, client(&broker)?);
    for peer in [&mut deaf, &mut reader] {
        peer.send("SUB a 1\r\n")?;
        done(peer)?;
    }
    // What the broker keeps for one, and what the kernel keeps, and as much again.
    let (count, payload) = (64, vec![b'x'; 1 << 20]);
    for _ in 0..count {
        publisher.send(format!("PUB a {}\r\n", payload.len()))?;
        publisher.send(&payload)?;
        publisher.send("\r\n")?;
        // The others are served meanwhile.
        reader.lines(&["MSG a 1 1048576"])?;
        ensure!(reader.bytes(payload.len() + 2)?.starts_with(&payload));
    }
    done(&mut publisher)?;
    broker.process.expect("dropped: it does not read")?;
    deaf.is_over()?;
    done(&mut reader)
}

fn who_is_silent_is_asked() -> Result<()> {
    let process = server("publish-subscribe", &["serve", "127.0.0.1:0", "1"])?;
    let broker = Broker { addr: process.addr.clone(), process, _reserved: None };
    let (mut dead, mut alive) = (client(&broker)?, client(&broker)?);
    alive.lines(&["PING"])?;
    alive.send("PONG\r\n")?;
    dead.lines(&["PING", "-ERR 'Stale Connection'"])?;
    ensure!(dead.rest()?.is_empty());
    alive.lines(&["PING"])?;
    done(&mut alive)
}

fn all_is_delivered_after_a_fin() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let mut peer = client(&broker)?;
    peer.send(format!("SUB a 1\r\n{}", "PUB a 5\r\nhello\r\n".repeat(1000)))?;
    peer.finish()?;
    ensure!(text(&peer.rest()?) == "MSG a 1 5\r\nhello\r\n".repeat(1000));
    Ok(())
}

fn subscriptions_are_bounded() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let mut peer = client(&broker)?;
    for id in 0..=1000 {
        peer.send(format!("SUB a {id}\r\n"))?;
    }
    peer.lines(&["-ERR 'maximum subscriptions exceeded'"])?;
    peer.is_over()
}

fn no_server() -> Result<()> {
    let shut = Shut::new()?;
    for args in [&["publish", &shut.addr, "a", "x"][..], &["subscribe", &shut.addr, "a"]] {
        fails(
            &run("publish-subscribe", args)?,
            1,
            &format!("cannot use {}: Connection refused", shut.addr),
        )?;
    }
    let door = Door::open()?;
    let addr = door.addr.clone();
    let other = thread::spawn(move || door.accept()?.send("220 mail.example ESMTP\r\n"));
    fails(&run("publish-subscribe", &["publish", &addr, "a", "x"])?, 1, "this is no NATS server")?;
    other.join().map_err(|_| anyhow!("the other server panicked"))?
}

fn python(script: &str, args: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new("timeout");
    Ok(command.args(["--kill-after=1", "60", "python3", "-c", script]).args(args).output()?)
}

fn has_nats_py() -> bool {
    python("import nats", &[]).is_ok_and(|output| output.status.success())
}

/// A client that people use: subscriptions, a queue group, a request and its reply.
fn nats_py(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let script = include_str!("nats_client.py");
    let output = python(script, &[&format!("nats://{}", broker.addr)])?;
    ensure!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    Ok(())
}
