//! The same checks for `intermediary` and for nginx with the configuration beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::peer::{ClosedPort, Listener, Peer};
use crate::support::{Check, find, join, missing, server, text, trial};

pub fn trials() -> Vec<Trial> {
    for_both(
        "intermediary",
        &[
            ("backends_take_turns", backends_take_turns),
            ("integrity", integrity),
            ("half_close_of_the_client", half_close_of_the_client),
            ("half_close_of_the_backend", half_close_of_the_backend),
            ("backpressure_to_the_client", backpressure_to_the_client),
            ("backpressure_to_the_backend", backpressure_to_the_backend),
        ],
    )
}

/// Makes two tests per check: one for our intermediary, and one for nginx.
pub fn for_both(module: &str, checks: &[Check<Kind>]) -> Vec<Trial> {
    let stream = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let nginx = missing("nginx").or((!Path::new(stream).exists()).then_some("nginx stream module"));
    let mut trials = Vec::new();
    for &(name, check) in checks {
        let ours = move || check(Kind::Ours);
        trials.push(trial(format!("{module}::{name}"), None, ours));
        let nginx_does = move || check(Kind::Nginx);
        trials.push(trial(format!("{module}::nginx::{name}"), nginx, nginx_does));
    }
    trials
}

#[derive(Clone, Copy)]
pub enum Kind {
    Ours,
    Nginx,
}

/// A running intermediary.
pub struct Intermediary {
    pub process: Process,
    pub addr: String,
    _reserved: Option<(ClosedPort, TempDir)>,
}

impl Kind {
    pub fn start(self, backends: [&str; 2]) -> Result<Intermediary> {
        match self {
            Self::Ours => {
                let process = server("intermediary", &["127.0.0.1:0", backends[0], backends[1]])?;
                let addr = process.addr.clone();
                Ok(Intermediary { process, addr, _reserved: None })
            }
            Self::Nginx => {
                let (closed, dir) = (ClosedPort::new()?, TempDir::new()?);
                let conf = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/nginx.conf"))?;
                let conf = conf
                    .replace("listen 127.0.0.1:7300", &format!("listen {}", closed.addr))
                    .replace("server 127.0.0.1:7000", &format!("server {}", backends[0]))
                    .replace("server 127.0.0.1:7002", &format!("server {}", backends[1]));
                let file = dir.path().join("nginx.conf");
                fs::write(&file, conf)?;
                // In one process, so that no process is left when it is killed.
                let file = file.to_string_lossy();
                let args = ["-p", &dir.path().to_string_lossy(), "-c", &file];
                let args = [&args[..], &["-e", "stderr", "-g", "master_process off;"]].concat();
                let process = Process::start("", Path::new(&find("nginx")), &args)?;
                process.expect("getrlimit")?; // the first line after it listens
                let addr = closed.addr.clone();
                Ok(Intermediary { process, addr, _reserved: Some((closed, dir)) })
            }
        }
    }
}

/// Starts an echo server that first says its address.
pub fn backend() -> Result<Process> {
    server("intermediary", &["backend", "127.0.0.1:0"])
}

/// Returns the address of the backend that answers at `addr`.
pub fn answering(addr: &str) -> Result<String> {
    let mut peer = Peer::connect(addr)?;
    peer.send("x")?;
    peer.finish()?;
    let answer = text(&peer.rest()?);
    let name = answer.strip_suffix(" says x").with_context(|| format!("{answer:?}"))?;
    Ok(name.to_owned())
}

/// Returns the two ends of a connection, and the intermediary between them. Its second backend refuses
/// connections.
pub fn through(kind: Kind) -> Result<(Peer, Peer, Intermediary)> {
    let (listener, closed) = (Listener::new()?, ClosedPort::new()?);
    let intermediary = kind.start([&listener.addr, &closed.addr])?;
    let client = Peer::connect(&intermediary.addr)?;
    let backend = listener.accept()?;
    Ok((client, backend, intermediary))
}

fn backends_take_turns(kind: Kind) -> Result<()> {
    let (one, two) = (backend()?, backend()?);
    let intermediary = kind.start([&one.addr, &two.addr])?;
    let mut counts = BTreeMap::new();
    for _ in 0..10 {
        *counts.entry(answering(&intermediary.addr)?).or_insert(0) += 1;
    }
    ensure!(counts.into_values().eq([5, 5]), "they do not take turns");
    Ok(())
}

/// All bytes, in order, both ways at once.
fn integrity(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _intermediary) = through(kind)?;
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
    join(echo)?;
    let all = join(reader)?;
    ensure!(all == expected, "{} of {} bytes, or other bytes", all.len(), expected.len());
    Ok(())
}

fn half_close_of_the_client(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _intermediary) = through(kind)?;
    client.send("request")?;
    client.finish()?;
    ensure!(backend.rest()? == b"request");
    backend.send("response")?;
    ensure!(client.bytes(8)? == b"response");
    backend.send("more")?;
    drop(backend);
    ensure!(client.rest()? == b"more");
    Ok(())
}

fn half_close_of_the_backend(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _intermediary) = through(kind)?;
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

/// More than the kernel's buffers of two connections can hold.
const BUFFERS: usize = 64 << 20;

fn backpressure_to_the_client(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _intermediary) = through(kind)?;
    let sent = client.send_until_stuck(BUFFERS)?;
    client.finish()?;
    ensure!(backend.rest()?.len() == sent, "not all of {sent}");
    Ok(())
}

fn backpressure_to_the_backend(kind: Kind) -> Result<()> {
    let (mut client, mut backend, _intermediary) = through(kind)?;
    let sent = backend.send_until_stuck(BUFFERS)?;
    // The other direction still works.
    client.send("hello")?;
    ensure!(backend.bytes(5)? == b"hello");
    backend.finish()?;
    ensure!(client.rest()?.len() == sent, "not all of {sent}");
    Ok(())
}
