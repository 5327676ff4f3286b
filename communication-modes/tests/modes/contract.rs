//! What holds for every program here, and for each that serves.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Check, Peer, fails, run, server, text, trial, until};

const MODES: [&str; 5] =
    ["synchronous", "callback", "intermediary", "publish-subscribe", "decentralised"];

pub fn trials() -> Vec<Trial> {
    let checks: [Check<&'static str>; 6] = [
        ("demonstration", demonstration),
        ("command_line", command_line),
        ("start", cannot_start),
        ("shutdown", shutdown),
        ("garbage", garbage),
        ("leaks", leaks),
    ];
    let pairs = checks.iter().flat_map(|check| MODES.iter().map(move |mode| (check, mode)));
    pairs
        .map(|(&(name, check), mode)| {
            trial(format!("{name}::{}", mode.replace('-', "_")), None, move || check(mode))
        })
        .collect()
}

/// A server of the mode; for the intermediary, with a backend behind it.
fn serve(mode: &str) -> Result<(Process, Option<Process>)> {
    let any = "127.0.0.1:0";
    Ok(match mode {
        "intermediary" => {
            let backend = server(mode, &["backend", any])?;
            (server(mode, &[any, &backend.addr])?, Some(backend))
        }
        "decentralised" => (server(mode, &["node", any])?, None),
        _ => (server(mode, &["serve", any])?, None),
    })
}

/// Whether the server serves.
fn serves(mode: &str, addr: &str) -> Result<()> {
    let mut peer = Peer::connect(addr)?;
    let (question, answer) = match mode {
        "synchronous" => ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "hello"),
        "callback" => ("7 1 abc\n", "7 cba"),
        "publish-subscribe" => ("PING\r\n", "PONG"),
        "decentralised" => ("say abc\n", "says cba"),
        _ => ("abc", "says abc"),
    };
    peer.send(question)?;
    peer.finish()?;
    let got = text(&peer.rest()?);
    ensure!(got.contains(answer), "{got:?}");
    Ok(())
}

/// Without arguments it shows itself, in seconds, and ends.
fn demonstration(mode: &str) -> Result<()> {
    let start = Instant::now();
    let output = run(mode, &[])?;
    let shown = text(&output.stdout);
    ensure!(output.status.success(), "{}: {shown} {}", output.status, text(&output.stderr));
    // It takes 0.5 s (intermediary) to 3 s (decentralised) where the machine is idle.
    ensure!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let parts: &[&str] = match mode {
        "synchronous" => {
            &["HTTP/1.1 200 OK", "HTTP/1.1 404", "no answer within 0.5 s", "Connection refused"]
        }
        "callback" => &[
            "answer to 3: kciuq",
            "no answer to 2: timed out",
            "nobody waits for \"2 wols oot\"",
            "2 of 2 requests without an answer",
        ],
        "intermediary" => &["says one", "is down", "says six", "is back", "says eight"],
        "publish-subscribe" => &["news.sport: 2:1", "jobs: third", "news.sport: 2:2"],
        _ => &["is here", "says olleh", "does not answer", "is gone"],
    };
    for part in parts {
        ensure!(shown.contains(part), "no {part:?} in {shown}");
    }
    Ok(())
}

fn command_line(mode: &str) -> Result<()> {
    let help = run(mode, &["--help"])?;
    ensure!(help.status.success() && text(&help.stdout).starts_with(&format!("Usage: {mode} ")));
    for args in [&["nonsense"][..], &["--nonsense"], &["serve"]] {
        fails(&run(mode, args)?, 2, "try --help")?;
    }
    Ok(())
}

fn cannot_start(mode: &str) -> Result<()> {
    let args = |addr| match mode {
        "intermediary" => [addr, "127.0.0.1:1"],
        "decentralised" => ["node", addr],
        _ => ["serve", addr],
    };
    for addr in ["nonsense", "127.0.0.1:99999", "192.0.2.1:7000"] {
        fails(&run(mode, &args(addr))?, 1, addr)?;
    }
    let (running, _backend) = serve(mode)?;
    fails(&run(mode, &args(&running.addr))?, 1, &running.addr)
}

/// SIGINT and SIGTERM end it with status 0, whatever its peers do.
fn shutdown(mode: &str) -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut process, _backend) = serve(mode)?;
        let _silent = Peer::connect(&process.addr)?;
        let mut half = Peer::connect(&process.addr)?;
        half.send("1 10")?;
        let mut unread = Peer::connect(&process.addr)?;
        unread.send("PING\r\n".repeat(1000))?;
        serves(mode, &process.addr)?;
        let start = Instant::now();
        kill(Pid::from_raw(process.id() as i32), signal)?;
        let status = process.wait()?;
        // The contract has one second; the rest is for a busy machine.
        ensure!(status.success(), "{signal}: {status}");
        ensure!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    Ok(())
}

/// Whatever one peer says, the others are served.
fn garbage(mode: &str) -> Result<()> {
    let (process, _backend) = serve(mode)?;
    let mut noise = vec![0; 100_000];
    // A linear congruential generator: the same noise each time.
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let long = vec![b'x'; 100_000];
    for bytes in
        [&noise[..], &long, b"\n", b"\0\0\0\n", b"\xff\xfe 1 1\n", b"1 99999999999999999999 x\n"]
    {
        let mut peer = Peer::connect(&process.addr)?;
        // It may be closed before all is sent.
        let _ = peer.send(bytes);
        let _ = peer.finish();
        peer.is_over()?;
        serves(mode, &process.addr)?;
    }
    Ok(())
}

/// What peers took is given back, however they leave.
fn leaks(mode: &str) -> Result<()> {
    let (process, _backend) = serve(mode)?;
    serves(mode, &process.addr)?;
    let entries = |what: &str| -> Result<usize> {
        let path = format!("/proc/{}/{what}", process.id());
        Ok(fs::read_dir(&path).context(path)?.count())
    };
    // Who looks after the backends, or gossips, has a thread besides the one that accepts.
    let threads = if ["intermediary", "decentralised"].contains(&mode) { 2 } else { 1 };
    until("it is alone", || Ok(entries("task")? == threads))?;
    let descriptors = entries("fd")?;

    let mut peers = (0..50).map(|_| Peer::connect(&process.addr)).collect::<Result<Vec<_>>>()?;
    let words = if mode == "publish-subscribe" { "SUB a 1\r\n" } else { "1 1 abc\r\n" };
    for peer in &mut peers {
        // It fails where the connection is closed already.
        let _ = peer.send(words);
    }
    for (index, mut peer) in peers.into_iter().enumerate() {
        match index % 3 {
            0 => peer.reset()?,
            1 => drop(peer),
            _ => {
                let _ = peer.finish();
                peer.is_over()?;
            }
        }
    }
    serves(mode, &process.addr)?;
    until("all is given back", || Ok(entries("task")? == threads && entries("fd")? == descriptors))
}
