//! The client roles of `publish-subscribe`: servers that the test plays, and arguments that are wrong.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::nats::{Kind, client};
use crate::peer::{ClosedPort, Listener, Peer};
use crate::support::{fails, join, run, start, succeeds, text, trials};

pub fn trials() -> Vec<Trial> {
    trials!("nats_client_faults":
        messages_before_a_pong messages_after_the_signal a_second_signal a_stale_connection
        a_loss_while_subscribing a_loss_while_replying
        a_server_that_refuses no_server not_a_server a_silent_server servers_as_users_write_them
        invalid_arguments text_is_escaped
    )
}

const MODE: &str = "publish-subscribe";
const INFO: &str = "INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\n";

/// Greets a client that has connected, and answers its first PING.
fn greet(peer: &mut Peer) -> Result<()> {
    peer.send(INFO)?;
    ensure!(peer.line()?.starts_with("CONNECT {"));
    peer.lines(&["PING"])?;
    peer.send("PONG\r\n")
}

/// A member that joins a queue group gets jobs at once, even before the server answers its PING.
fn messages_before_a_pong() -> Result<()> {
    let listener = Listener::new()?;
    let subscriber = start(MODE, &["subscribe", &listener.addr, "jobs", "workers"])?;
    let mut peer = listener.accept()?;
    greet(&mut peer)?;
    peer.lines(&["SUB jobs workers 1", "PING"])?;
    peer.send("MSG jobs 1 5\r\nfirst\r\nPONG\r\nMSG jobs 1 6\r\nsecond\r\n")?;
    subscriber.expect("jobs: first")?;
    subscriber.expect("jobs: second").map(drop)
}

/// At SIGTERM, a subscriber ends its subscription and still handles what the server has sent.
fn messages_after_the_signal() -> Result<()> {
    let listener = Listener::new()?;
    let mut subscriber = start(MODE, &["subscribe", &listener.addr, "jobs", "workers"])?;
    let mut peer = listener.accept()?;
    greet(&mut peer)?;
    peer.lines(&["SUB jobs workers 1", "PING"])?;
    peer.send("PONG\r\n")?;
    subscriber.expect("subscribed")?;
    subscriber.signal(Signal::SIGTERM)?;
    peer.send("MSG jobs 1 5\r\nfirst\r\n")?;
    peer.lines(&["UNSUB 1", "PING"])?;
    peer.send("MSG jobs 1 6\r\nsecond\r\nPONG\r\n")?;
    subscriber.expect("jobs: first")?;
    subscriber.expect("jobs: second")?;
    ensure!(subscriber.wait()?.success());
    Ok(())
}

/// A server that does not answer cannot keep a subscriber from ending. The second signal does not wait
/// for a timeout: the message would be another.
fn a_second_signal() -> Result<()> {
    let listener = Listener::new()?;
    let mut subscriber = start(MODE, &["subscribe", &listener.addr, "jobs"])?;
    let mut peer = listener.accept()?;
    greet(&mut peer)?;
    peer.lines(&["SUB jobs 1", "PING"])?;
    peer.send("PONG\r\n")?;
    subscriber.expect("subscribed")?;
    subscriber.signal(Signal::SIGTERM)?;
    peer.lines(&["UNSUB 1", "PING"])?;
    subscriber.signal(Signal::SIGTERM)?;
    subscriber.expect("stopped before the server confirmed the end")?;
    ensure!(subscriber.wait()?.code() == Some(1));
    Ok(())
}

/// A subscriber that was suspended for too long continues.
fn a_stale_connection() -> Result<()> {
    let listener = Listener::new()?;
    let subscriber = start(MODE, &["subscribe", &listener.addr, "a"])?;
    for message in ["first", "second"] {
        let mut peer = listener.accept()?;
        greet(&mut peer)?;
        peer.lines(&["SUB a 1", "PING"])?;
        let size = message.len();
        peer.send(format!("PONG\r\nMSG a 1 {size}\r\n{message}\r\n-ERR 'Stale Connection'\r\n"))?;
        subscriber.expect(&format!("a: {message}"))?;
        subscriber.expect("the server is lost: stale connection")?;
    }
    Ok(())
}

fn a_loss_while_subscribing() -> Result<()> {
    let listener = Listener::new()?;
    let subscriber = start(MODE, &["subscribe", &listener.addr, "a"])?;
    for is_lost in [true, false] {
        let mut peer = listener.accept()?;
        greet(&mut peer)?;
        peer.lines(&["SUB a 1", "PING"])?;
        if is_lost {
            peer.reset()?;
            subscriber.expect("the server is lost")?;
        } else {
            peer.send("PONG\r\n")?;
            subscriber.expect("subscribed to a")?;
        }
    }
    Ok(())
}

/// A responder continues with the next server, also if it was writing when it lost the last one.
fn a_loss_while_replying() -> Result<()> {
    let listener = Listener::new()?;
    let responder = start(MODE, &["respond", &listener.addr, "a", "x"])?;
    for _ in 0..3 {
        let mut peer = listener.accept()?;
        greet(&mut peer)?;
        peer.lines(&["SUB a 1", "PING"])?;
        peer.send("PONG\r\n".to_owned() + &"MSG a 1 b 0\r\n\r\n".repeat(100))?;
        peer.lines(&["PUB b 1"])?;
        peer.reset()?;
        responder.expect("the server is lost")?;
    }
    Ok(())
}

/// A server that sends the reason and closes the connection, before the client has sent anything.
fn a_server_that_refuses() -> Result<()> {
    for reset in [false, true] {
        let listener = Listener::new()?;
        let addr = listener.addr.clone();
        let server = listener.serve(move |mut peer| {
            peer.send(format!("{INFO}-ERR 'Authorization Violation'\r\n"))?;
            if reset { peer.reset() } else { Ok(()) }
        });
        let output = run(MODE, &["publish", &addr, "a", "x"])?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        let error = text(&output.stderr);
        // An RST may discard the line before the client has read it.
        ensure!(reset || error.contains("Authorization Violation"), "{error}");
        join(server)?;
    }
    Ok(())
}

fn no_server() -> Result<()> {
    let closed = ClosedPort::new()?;
    let part = format!("cannot use {:?}: Connection refused", closed.addr);
    for args in [
        &["publish", &closed.addr, "a", "x"][..],
        &["subscribe", &closed.addr, "a"],
        &["request", &closed.addr, "a", "x"],
        &["respond", &closed.addr, "a", "x"],
    ] {
        fails(&run(MODE, args)?, 1, &part)?;
    }
    Ok(())
}

fn not_a_server() -> Result<()> {
    for (greeting, part) in [
        ("220 mail.example ESMTP\r\n", "this is not a NATS server"),
        ("", "this is not a NATS server"),
        ("INFO {\r\n", "invalid INFO"),
        ("INFO {\"tls_required\":true}\r\n", "TLS"),
    ] {
        let listener = Listener::new()?;
        let addr = listener.addr.clone();
        let server = listener.serve(move |mut peer| peer.send(greeting));
        fails(&run(MODE, &["publish", &addr, "a", "x"])?, 1, part)?;
        join(server)?;
    }
    Ok(())
}

fn a_silent_server() -> Result<()> {
    let listener = Listener::new()?;
    let output = run(MODE, &["publish", &listener.addr, "a", "x"])?;
    fails(&output, 1, &format!("cannot use {:?}: timed out", listener.addr))
}

/// `nats://`, a missing port, and what is not supported.
fn servers_as_users_write_them() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let url = format!("nats://{}/", broker.addr);
    let closed = ClosedPort::new()?;
    for servers in [&url, &format!("{},{url}", closed.addr)] {
        succeeds(&run(MODE, &["publish", servers, "a", "x"])?)?;
    }
    // Port 4222 may be in use. In either case the client has understood the address.
    let output = run(MODE, &["publish", "nats://127.0.0.1", "a", "x"])?;
    ensure!(!text(&output.stderr).contains("invalid"), "{output:?}");
    for servers in ["tls://a", "nats://user:password@a", ""] {
        fails(&run(MODE, &["publish", servers, "a", "x"])?, 1, &format!("cannot use {servers:?}"))?;
    }
    Ok(())
}

/// An argument that would become two words or two lines of the protocol is refused before anything is
/// sent.
fn invalid_arguments() -> Result<()> {
    let closed = ClosedPort::new()?;
    let addr = &closed.addr;
    let subjects = ["a 0\r\n\r\nPUB secret 6\r\nforged\r\nPUB b", "a b", "a\tb", "", "a..b", ".a"];
    for subject in subjects {
        let part = format!("the subject {subject:?}");
        for role in ["publish", "request", "respond"] {
            fails(&run(MODE, &[role, addr, subject, "x"])?, 1, &part)?;
        }
        fails(&run(MODE, &["subscribe", addr, subject])?, 1, &part)?;
    }
    for subject in ["*", "a.>"] {
        let part = format!("the subject {subject:?}");
        fails(&run(MODE, &["publish", addr, subject, "x"])?, 1, &part)?;
        fails(&run(MODE, &["request", addr, subject, "x"])?, 1, &part)?;
    }
    for queue in ["q 1", "q\r\nPING", ""] {
        let part = format!("the queue {queue:?}");
        fails(&run(MODE, &["subscribe", addr, "a", queue])?, 1, &part)?;
    }
    for seconds in ["soon", "-1", "NaN"] {
        let part = "is not a number of seconds";
        fails(&run(MODE, &["request", addr, "a", "x", seconds])?, 1, part)?;
    }
    for idle in ["0", "-1", "soon"] {
        fails(&run(MODE, &["serve", addr, idle])?, 1, "IDLE")?;
    }
    // A payload may contain anything.
    let broker = Kind::Ours.start()?;
    let subscriber = start(MODE, &["subscribe", &broker.addr, "a"])?;
    subscriber.expect("subscribed")?;
    succeeds(&run(MODE, &["publish", &broker.addr, "a", "x\r\nPUB a 1\r\ny"])?)?;
    subscriber.expect("a: x\\r\\nPUB a 1\\r\\ny").map(drop)
}

/// A publisher must not be able to write to the terminal of a subscriber.
fn text_is_escaped() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let subscriber = start(MODE, &["subscribe", &broker.addr, ">"])?;
    subscriber.expect("subscribed")?;
    let mut peer = client(&broker)?;
    peer.send("PUB a\x1bc 8\r\n\x1b]0;x\x07\u{9b}\r\n")?;
    subscriber.expect("a\\u{1b}c: \\u{1b}]0;x\\u{7}\\u{9b}").map(drop)
}
