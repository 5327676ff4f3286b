//! Clients of the broker that are slow, silent or many.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::nats::{Broker, Kind, client, flush, for_both};
use crate::peer::Peer;
use crate::support::{fails, join, run, server, text, trial, trials, until};

pub fn trials() -> Vec<Trial> {
    let fds = raise_fd_limit().is_none_or(|limit| limit < 2500).then_some("2500 file descriptors");
    let mut trials = trials!("broker_limits":
        a_subscriber_that_does_not_read a_subscriber_that_reads_slowly a_silent_client
        a_client_that_is_silent_within_a_line everything_is_sent_after_a_fin
        too_many_subscriptions
    );
    trials.push(trial("broker_limits::too_many_clients", fds, too_many_clients));
    trials.extend(for_both(
        "broker_limits",
        &[("large_messages_to_itself", large_messages_to_itself)],
    ));
    trials
}

/// Raises the limit on file descriptors for this process and those that it starts, and returns it.
fn raise_fd_limit() -> Option<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(hard)
}

const SIZE: usize = 1 << 20;

/// Sends `count` messages of 1 MiB on the subject `a`.
fn publish(peer: &mut Peer, count: usize) -> Result<()> {
    let message = [format!("PUB a {SIZE}\r\n").as_bytes(), &vec![b'x'; SIZE], b"\r\n"].concat();
    (0..count).try_for_each(|_| peer.send(&message))
}

/// Receives one message of 1 MiB.
fn receive(peer: &mut Peer) -> Result<()> {
    peer.lines(&[&format!("MSG a 1 {SIZE}")])?;
    ensure!(peer.bytes(SIZE + 2)?.starts_with(b"xxx"));
    Ok(())
}

/// It is disconnected, and the others get all messages.
fn a_subscriber_that_does_not_read() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let (mut silent, mut reader) = (client(&broker)?, client(&broker)?);
    let mut publisher = client(&broker)?;
    for peer in [&mut silent, &mut reader] {
        peer.send("SUB a 1\r\n")?;
        flush(peer)?;
    }
    // More than the broker and the kernel keep for one client.
    let count = 100;
    let publishing = thread::spawn(move || {
        publish(&mut publisher, count)?;
        flush(&mut publisher)
    });
    for _ in 0..count {
        receive(&mut reader)?;
    }
    join(publishing)?;
    let addr = silent.stream().local_addr()?;
    broker.process.expect(&format!("{addr} is too slow: 64 MiB are pending"))?;
    silent.wait_closed()?;
    flush(&mut reader)
}

/// It gets all messages: the publisher waits for it.
fn a_subscriber_that_reads_slowly() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let (mut reader, mut publisher) = (client(&broker)?, client(&broker)?);
    reader.send("SUB a 1\r\n")?;
    flush(&mut reader)?;
    let count = 150;
    let publishing = thread::spawn(move || {
        publish(&mut publisher, count)?;
        flush(&mut publisher)
    });
    for _ in 0..count {
        receive(&mut reader)?;
        thread::sleep(Duration::from_millis(10));
    }
    join(publishing)?;
    ensure!(!broker.process.has("too slow"), "a client that reads was disconnected");
    flush(&mut reader)
}

/// A client that sends all its messages before it reads any.
fn large_messages_to_itself(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    peer.send("SUB a 1\r\n")?;
    publish(&mut peer, 40)?;
    for _ in 0..40 {
        receive(&mut peer)?;
    }
    flush(&mut peer)
}

/// Like nats-server, the broker disconnects a client that does not answer two PINGs.
fn a_silent_client() -> Result<()> {
    let process = server("publish-subscribe", &["serve", "127.0.0.1:0", "1"])?;
    let connect = || -> Result<Peer> {
        let mut peer = Peer::connect(&process.addr)?;
        ensure!(peer.line()?.starts_with("INFO {"));
        Ok(peer)
    };
    let (mut dead, mut alive) = (connect()?, connect()?);
    let answering = thread::spawn(move || -> Result<Peer> {
        for _ in 0..5 {
            alive.lines(&["PING"])?;
            alive.send("PONG\r\n")?;
        }
        Ok(alive)
    });
    dead.lines(&["PING", "PING", "-ERR 'Stale Connection'"])?;
    ensure!(dead.rest()?.is_empty());
    join(answering)?.lines(&["PING"])
}

fn a_client_that_is_silent_within_a_line() -> Result<()> {
    let process = server("publish-subscribe", &["serve", "127.0.0.1:0", "1"])?;
    for part in ["SUB a", "PUB a 5\r\nhel"] {
        let mut peer = Peer::connect(&process.addr)?;
        ensure!(peer.line()?.starts_with("INFO {"));
        peer.send(part)?;
        peer.lines(&["-ERR 'Stale Connection'"])?;
        ensure!(peer.rest()?.is_empty());
    }
    Ok(())
}

fn everything_is_sent_after_a_fin() -> Result<()> {
    let broker: Broker = Kind::Ours.start()?;
    let mut peer = client(&broker)?;
    peer.send(format!("SUB a 1\r\n{}", "PUB a 5\r\nhello\r\n".repeat(1000)))?;
    peer.finish()?;
    ensure!(text(&peer.rest()?) == "MSG a 1 5\r\nhello\r\n".repeat(1000));
    Ok(())
}

/// A client above the limit is refused at once, and there is room again when one has left.
fn too_many_clients() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let mut peers = (0..1000).map(|_| client(&broker)).collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        let mut refused = Peer::connect(&broker.addr)?;
        ensure!(refused.line()?.starts_with("INFO {"));
        refused.lines(&["-ERR 'maximum connections exceeded'"])?;
        refused.wait_closed()?;
        // Our client shows the reason, and not that it could not write.
        let output = run("publish-subscribe", &["publish", &broker.addr, "a", "x"])?;
        fails(&output, 1, "the server reports \"maximum connections exceeded\"")?;
    }
    peers.truncate(999);
    until("there is room for a client", || Ok(client(&broker).is_ok()))
}

fn too_many_subscriptions() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let mut peer = client(&broker)?;
    for id in 0..=1000 {
        peer.send(format!("SUB a {id}\r\n"))?;
    }
    peer.lines(&["-ERR 'maximum subscriptions exceeded'"])?;
    peer.wait_closed()
}
