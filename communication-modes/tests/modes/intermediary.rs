//! The same checks of `intermediary` and of nginx with the configuration beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::support::{
    Check, Door, Peer, Shut, find, missing, program, server, text, trial, trials, until,
};

pub fn trials() -> Vec<Trial> {
    let checks: [Check<Kind>; 10] = [
        ("spreads", spreads),
        ("whole", whole),
        ("half_close_of_the_client", half_close_of_the_client),
        ("half_close_of_the_backend", half_close_of_the_backend),
        ("backpressure_to_the_client", backpressure_to_the_client),
        ("backpressure_to_the_backend", backpressure_to_the_backend),
        ("a_dead_backend", a_dead_backend),
        ("death_and_return", death_and_return),
        ("nobody_alive", nobody_alive),
        ("resets", resets),
    ];
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let nginx = missing("nginx").or((!Path::new(module).exists()).then_some("nginx stream module"));
    let mut trials = trials!("intermediary": starved_of_descriptors a_dead_backend_is_reported);
    for (name, check) in checks {
        let ours = move || check(Kind::Ours);
        trials.push(trial(format!("intermediary::{name}"), None, ours));
        trials
            .push(trial(format!("intermediary::nginx::{name}"), nginx, move || check(Kind::Nginx)));
    }
    trials
}

#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Nginx,
}

/// A running intermediary.
struct Middle {
    process: Process,
    addr: String,
    _reserved: Option<(Shut, TempDir)>,
}

impl Kind {
    fn start(self, backends: [&str; 2]) -> Result<Middle> {
        match self {
            Self::Ours => {
                let process = server("intermediary", &["127.0.0.1:0", backends[0], backends[1]])?;
                let addr = process.addr.clone();
                Ok(Middle { process, addr, _reserved: None })
            }
            Self::Nginx => {
                let (shut, dir) = (Shut::new()?, TempDir::new()?);
                let conf = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/nginx.conf"))?;
                let conf = conf
                    .replace("listen 127.0.0.1:7100", &format!("listen {}", shut.addr))
                    .replace("server 127.0.0.1:7000", &format!("server {}", backends[0]))
                    .replace("server 127.0.0.1:7002", &format!("server {}", backends[1]));
                let file = dir.path().join("nginx.conf");
                fs::write(&file, conf)?;
                // In one process, so that nothing outlives it when it is killed.
                let file = file.to_string_lossy();
                let args = ["-p", &dir.path().to_string_lossy(), "-c", &file];
                let args = [&args[..], &["-e", "stderr", "-g", "master_process off;"]].concat();
                let process = Process::start("", Path::new(&find("nginx")), &args)?;
                process.expect("getrlimit")?; // The first line after it listens.
                let addr = shut.addr.clone();
                Ok(Middle { process, addr, _reserved: Some((shut, dir)) })
            }
        }
    }
}

/// An echo server that says first who it is.
fn backend() -> Result<Process> {
    server("intermediary", &["backend", "127.0.0.1:0"])
}

/// Who answers at `addr`.
fn who(addr: &str) -> Result<String> {
    let mut peer = Peer::connect(addr)?;
    peer.send("x")?;
    peer.finish()?;
    let answer = text(&peer.rest()?);
    let name = answer.strip_suffix(" says x").with_context(|| format!("{answer:?}"))?;
    Ok(name.to_owned())
}

/// The two ends of a connection through `kind`, and what is between them. The second backend is one
/// that nobody reaches: it refuses.
fn through(kind: Kind) -> Result<(Peer, Peer, Middle)> {
    let (door, shut) = (Door::open()?, Shut::new()?);
    let middle = kind.start([&door.addr, &shut.addr])?;
    let client = Peer::connect(&middle.addr)?;
    let backend = door.accept()?;
    Ok((client, backend, middle))
}

fn spreads(kind: Kind) -> Result<()> {
    let (one, two) = (backend()?, backend()?);
    let middle = kind.start([&one.addr, &two.addr])?;
    let mut counts = BTreeMap::new();
    for _ in 0..10 {
        *counts.entry(who(&middle.addr)?).or_insert(0) += 1;
    }
    ensure!(counts.into_values().eq([5, 5]), "not in turns");
    Ok(())
}

/// All bytes, in order, both ways at once.
fn whole(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _middle) = through(kind)?;
    let pattern: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = pattern.clone();
    let mut input = client.stream().try_clone()?;
    let echo = thread::spawn(move || -> Result<()> {
        for chunk in 1.. {
            let mut buffer = vec![0; chunk * 37 % 5000 + 1];
            let count = backend.stream().read(&mut buffer)?;
            if count == 0 {
                break;
            }
            backend.send(&buffer[..count])?;
        }
        backend.finish()
    });
    let reader = thread::spawn(move || -> Result<Vec<u8>> {
        let mut all = Vec::new();
        input.read_to_end(&mut all)?;
        Ok(all)
    });
    for chunk in pattern.chunks(7001) {
        client.send(chunk)?;
    }
    client.finish()?;
    echo.join().map_err(|_| anyhow!("the echo panicked"))??;
    let all = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    ensure!(all == expected, "{} of {} bytes, or others", all.len(), expected.len());
    Ok(())
}

fn half_close_of_the_client(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _middle) = through(kind)?;
    client.send("question")?;
    client.finish()?;
    ensure!(backend.rest()? == b"question");
    backend.send("answer")?;
    ensure!(client.bytes(6)? == b"answer");
    backend.send("more")?;
    drop(backend);
    ensure!(client.rest()? == b"more");
    Ok(())
}

fn half_close_of_the_backend(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _middle) = through(kind)?;
    backend.send("greeting")?;
    backend.finish()?;
    ensure!(client.rest()? == b"greeting");
    client.send("late")?;
    ensure!(backend.bytes(4)? == b"late");
    client.send("later")?;
    drop(client);
    ensure!(backend.rest()? == b"later");
    Ok(())
}

/// The most that may wait in the kernel's buffers of two connections, generously.
const BUFFERS: usize = 64 << 20;

fn backpressure_to_the_client(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _middle) = through(kind)?;
    let sent = client.send_until_stuck(BUFFERS)?;
    client.finish()?;
    ensure!(backend.rest()?.len() == sent, "not all of {sent}");
    Ok(())
}

fn backpressure_to_the_backend(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _middle) = through(kind)?;
    let sent = backend.send_until_stuck(BUFFERS)?;
    // The other way is free meanwhile.
    client.send("hello")?;
    ensure!(backend.bytes(5)? == b"hello");
    backend.finish()?;
    ensure!(client.rest()?.len() == sent, "not all of {sent}");
    Ok(())
}

/// No client notices a backend that refuses.
fn a_dead_backend(kind: Kind) -> Result<()> {
    let (shut, alive) = (Shut::new()?, backend()?);
    for backends in [[&shut.addr[..], &alive.addr], [&alive.addr, &shut.addr]] {
        let middle = kind.start(backends)?;
        for _ in 0..6 {
            ensure!(who(&middle.addr)? == alive.addr);
        }
    }
    Ok(())
}

/// The connections of a backend that dies end; the others go on; once it is back, it gets new ones.
fn death_and_return(kind: Kind) -> Result<()> {
    let (mut one, two) = (backend()?, backend()?);
    let middle = kind.start([&one.addr, &two.addr])?;
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = Peer::connect(&middle.addr)?;
        peer.send("x")?;
        let name = text(&peer.bytes(one.addr.len().min(two.addr.len()))?);
        peers.push((name, peer));
    }
    one.kill()?;
    for (name, mut peer) in peers {
        if one.addr.starts_with(&name) {
            peer.is_over()?;
        } else {
            peer.finish()?;
            ensure!(text(&peer.rest()?).ends_with(" says x"));
        }
    }
    for _ in 0..4 {
        ensure!(who(&middle.addr)? == two.addr);
    }
    let _one = server("intermediary", &["backend", &one.addr])?;
    until("it has clients again", || Ok(who(&middle.addr)? == one.addr))
}

fn nobody_alive(kind: Kind) -> Result<()> {
    let (one, two) = (Shut::new()?, Shut::new()?);
    let middle = kind.start([&one.addr, &two.addr])?;
    for _ in 0..3 {
        let mut client = Peer::connect(&middle.addr)?;
        client.is_over()?;
    }
    let door = one.open()?;
    let answering = thread::spawn(move || -> Result<()> {
        // Whoever looks whether it is back comes and leaves.
        while !matches!(door.accept()?.line(), Ok(line) if line == "hello") {}
        Ok(())
    });
    until("a client is served", || {
        let mut client = Peer::connect(&middle.addr)?;
        let _ = client.send("hello\n");
        let _ = client.finish();
        client.is_over()?;
        Ok(answering.is_finished())
    })?;
    answering.join().map_err(|_| anyhow!("the backend panicked"))?
}

/// Who is lost on one side is gone for the other side.
fn resets(kind: Kind) -> Result<()> {
    let (client, mut backend, _middle) = through(kind)?;
    client.reset()?;
    backend.is_over()?;
    let (mut client, backend, _middle) = through(kind)?;
    backend.reset()?;
    client.is_over()
}

fn a_dead_backend_is_reported() -> Result<()> {
    let (shut, alive) = (Shut::new()?, backend()?);
    let middle = Kind::Ours.start([&shut.addr, &alive.addr])?;
    who(&middle.addr)?;
    middle.process.expect(&format!("{} is down: Connection refused", shut.addr))?;
    let addr = shut.addr.clone();
    let _door = shut.open()?;
    middle.process.expect(&format!("{addr} is back"))?;
    Ok(())
}

/// Out of descriptors, it serves as many as it can whole, and the others when these have gone; and
/// it does not take its own shortage for a backend's death.
fn starved_of_descriptors() -> Result<()> {
    let alive = backend()?;
    let ours = program("intermediary").to_string_lossy();
    // Even and odd: the last descriptor is the first or the second of a connection's two.
    for descriptors in [40, 41] {
        let command = format!("ulimit -n {descriptors}; exec '{ours}' 127.0.0.1:0 {}", alive.addr);
        let middle = Process::start("", Path::new("/bin/sh"), &["-c", &command])?.listening()?;
        let mut peers = (0..30).map(|_| Peer::connect(&middle.addr)).collect::<Result<Vec<_>>>()?;
        for peer in &mut peers {
            peer.send("x")?;
        }
        for mut peer in peers {
            peer.finish()?;
            ensure!(text(&peer.rest()?) == format!("{} says x", alive.addr));
        }
        ensure!(who(&middle.addr)? == alive.addr);
    }
    Ok(())
}
