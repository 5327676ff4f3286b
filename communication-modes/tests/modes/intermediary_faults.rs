//! `intermediary` and nginx, when backends and clients fail.

use std::path::Path;
use std::thread;

use anyhow::{Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;

use crate::intermediary::{Kind, answering, backend, for_both, through};
use crate::peer::{ClosedPort, Peer};
use crate::support::{join, program, server, text, trials, until};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials!("intermediary_faults":
        a_dead_backend_is_reported out_of_file_descriptors
    );
    trials.extend(for_both(
        "intermediary_faults",
        &[
            ("a_dead_backend", a_dead_backend),
            ("death_and_return", death_and_return),
            ("all_backends_dead", all_backends_dead),
            ("resets", resets),
        ],
    ));
    trials
}

/// No client notices a backend that refuses connections.
fn a_dead_backend(kind: Kind) -> Result<()> {
    let (closed, alive) = (ClosedPort::new()?, backend()?);
    for backends in [[&closed.addr[..], &alive.addr], [&alive.addr, &closed.addr]] {
        let intermediary = kind.start(backends)?;
        for _ in 0..6 {
            ensure!(answering(&intermediary.addr)? == alive.addr);
        }
    }
    Ok(())
}

/// If a backend dies, its connections end, and the others continue. When it is back, it gets new ones.
fn death_and_return(kind: Kind) -> Result<()> {
    // The port stays reserved while the backend is dead.
    let closed = ClosedPort::new()?;
    let mut one = server("intermediary", &["backend", &closed.addr])?;
    let two = backend()?;
    let intermediary = kind.start([&one.addr, &two.addr])?;
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = Peer::connect(&intermediary.addr)?;
        peer.send("x")?;
        let name = text(&peer.bytes(one.addr.len().min(two.addr.len()))?);
        peers.push((name, peer));
    }
    one.kill()?;
    for (name, mut peer) in peers {
        if one.addr.starts_with(&name) {
            peer.wait_closed()?;
        } else {
            peer.finish()?;
            ensure!(text(&peer.rest()?).ends_with(" says x"));
        }
    }
    for _ in 0..4 {
        ensure!(answering(&intermediary.addr)? == two.addr);
    }
    let _one = server("intermediary", &["backend", &one.addr])?;
    until("it gets clients again", || Ok(answering(&intermediary.addr)? == one.addr))
}

fn all_backends_dead(kind: Kind) -> Result<()> {
    let (one, two) = (ClosedPort::new()?, ClosedPort::new()?);
    let intermediary = kind.start([&one.addr, &two.addr])?;
    for _ in 0..3 {
        Peer::connect(&intermediary.addr)?.wait_closed()?;
    }
    let listener = one.open()?;
    let serving = thread::spawn(move || -> Result<()> {
        // The intermediary also connects to see whether the backend is back.
        while !matches!(listener.accept()?.line(), Ok(line) if line == "hello") {}
        Ok(())
    });
    until("a client is served", || {
        let mut client = Peer::connect(&intermediary.addr)?;
        let _ = client.send("hello\n");
        let _ = client.finish();
        client.wait_closed()?;
        Ok(serving.is_finished())
    })?;
    join(serving)
}

/// A failure on one side ends the connection on the other side.
fn resets(kind: Kind) -> Result<()> {
    let (client, mut backend, _intermediary) = through(kind)?;
    client.reset()?;
    backend.wait_closed()?;
    let (mut client, backend, _intermediary) = through(kind)?;
    backend.reset()?;
    client.wait_closed()
}

fn a_dead_backend_is_reported() -> Result<()> {
    let (closed, alive) = (ClosedPort::new()?, backend()?);
    let intermediary = Kind::Ours.start([&closed.addr, &alive.addr])?;
    answering(&intermediary.addr)?;
    intermediary.process.expect(&format!("{} is down: Connection refused", closed.addr))?;
    let addr = closed.addr.clone();
    let _listener = closed.open()?;
    intermediary.process.expect(&format!("{addr} is up again"))?;
    Ok(())
}

/// When file descriptors run out, it serves as many connections as it can, and the others later. It
/// does not mark the backend as down.
fn out_of_file_descriptors() -> Result<()> {
    let alive = backend()?;
    let ours = program("intermediary").to_string_lossy();
    // Even and odd: the last descriptor is the first or the second of a connection's two.
    for fds in [40, 41] {
        let command = format!("ulimit -n {fds}; exec '{ours}' 127.0.0.1:0 {}", alive.addr);
        let intermediary =
            Process::start("", Path::new("/bin/sh"), &["-c", &command])?.listening()?;
        let mut peers =
            (0..30).map(|_| Peer::connect(&intermediary.addr)).collect::<Result<Vec<_>>>()?;
        for peer in &mut peers {
            peer.send("x")?;
        }
        intermediary.expect("paused accepting: ")?;
        for mut peer in peers {
            peer.finish()?;
            ensure!(text(&peer.rest()?) == format!("{} says x", alive.addr));
        }
        ensure!(answering(&intermediary.addr)? == alive.addr);
    }
    Ok(())
}
