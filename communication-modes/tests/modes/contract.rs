//! What every mode must do, and every server of a mode.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::namespace::missing_namespaces;
use crate::peer::Peer;
use crate::support::{Check, fails, missing, program, run, server, succeeds, text, trial, until};

const MODES: [&str; 5] =
    ["synchronous", "callback", "intermediary", "publish-subscribe", "decentralised"];

pub fn trials() -> Vec<Trial> {
    let checks: [Check<&'static str>; 8] = [
        ("demonstration", demonstration),
        ("command_line", command_line),
        ("start", cannot_start),
        ("shutdown", shutdown),
        ("backtrace", backtrace),
        ("garbage", garbage),
        ("limits", limits),
        ("leaks", leaks),
    ];
    let root = missing_namespaces().or(missing("setpriv"));
    let mut trials = Vec::new();
    for &(name, check) in &checks {
        for mode in MODES {
            let missing = if name == "limits" { root } else { None };
            let name = format!("{name}::{}", mode.replace('-', "_"));
            trials.push(trial(name, missing, move || check(mode)));
        }
    }
    trials
}

/// Starts a server of the mode. The intermediary gets a backend.
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

/// Checks that the server serves.
fn serves(mode: &str, addr: &str) -> Result<()> {
    let mut peer = Peer::connect(addr)?;
    let (question, answer) = match mode {
        "synchronous" => ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "hello"),
        "callback" => ("7 1 abc\n", "7 cba"),
        "publish-subscribe" => ("PING\r\n", "PONG"),
        "decentralised" => ("say abc\n", "says cba\n\n"),
        _ => ("abc", "says abc"),
    };
    peer.send(question)?;
    peer.finish()?;
    let got = text(&peer.rest()?);
    ensure!(got.contains(answer), "{got:?}");
    Ok(())
}

/// Without arguments a mode runs its demonstration, which takes seconds.
fn demonstration(mode: &str) -> Result<()> {
    let start = Instant::now();
    let shown = succeeds(&run(mode, &[])?)?;
    // On an idle machine it takes 0.5 s (intermediary) to 3 s (decentralised).
    ensure!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let parts: &[&str] = match mode {
        "synchronous" => {
            &["HTTP/1.1 200 OK", "HTTP/1.1 404", "no response within 0.5 s", "Connection refused"]
        }
        "callback" => &[
            "answer to 3: kciuq",
            "no answer to 2: timed out",
            "too late: 2 wols oot",
            "2 of 2 calls failed",
        ],
        "intermediary" => &["says one", "is down", "says six", "is up again", "says eight"],
        "publish-subscribe" => &["sport.chess: draw", "jobs: third", "noon", "sport.chess: mate"],
        _ => &["joined", "says olleh", "does not answer", "left"],
    };
    for part in parts {
        ensure!(shown.contains(part), "no {part:?} in {shown}");
    }
    Ok(())
}

fn command_line(mode: &str) -> Result<()> {
    let help = succeeds(&run(mode, &["--help"])?)?;
    ensure!(help.starts_with(&format!("Usage: {mode} ")), "{help}");
    ensure!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
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

/// SIGINT and SIGTERM end a server with status 0, whatever its peers do.
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
        process.signal(signal)?;
        let status = process.wait()?;
        // The contract says one second. The rest is for a busy machine.
        ensure!(status.success(), "{signal}: {status}");
        ensure!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    Ok(())
}

/// An error is one line, also for a user who has set `RUST_BACKTRACE`.
fn backtrace(mode: &str) -> Result<()> {
    let args = match mode {
        "intermediary" => &["nonsense", "127.0.0.1:1"][..],
        "decentralised" => &["node", "nonsense"],
        _ => &["serve", "nonsense"],
    };
    let mut command = Command::new(program(mode));
    let output = command.args(args).env("RUST_BACKTRACE", "1").output()?;
    fails(&output, 1, "nonsense")
}

/// Whatever one peer sends, the others are served.
fn garbage(mode: &str) -> Result<()> {
    let (process, _backend) = serve(mode)?;
    let mut noise = vec![0; 100_000];
    // A linear congruential generator: the same bytes in each run.
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
        // The server may close the connection before everything is sent.
        let _ = peer.send(bytes);
        let _ = peer.finish();
        peer.wait_closed()?;
        serves(mode, &process.addr)?;
    }
    Ok(())
}

/// File descriptors and threads are released, however the peers leave.
fn leaks(mode: &str) -> Result<()> {
    let (process, _backend) = serve(mode)?;
    serves(mode, &process.addr)?;
    let entries = |what: &str| -> Result<usize> {
        let path = format!("/proc/{}/{what}", process.id());
        Ok(fs::read_dir(&path).context(path)?.count())
    };
    // One thread probes the backends, or gossips, beside the one that accepts.
    let threads = if ["intermediary", "decentralised"].contains(&mode) { 2 } else { 1 };
    until("no connection is left", || Ok(entries("task")? == threads))?;
    let descriptors = entries("fd")?;

    let mut peers = (0..50).map(|_| Peer::connect(&process.addr)).collect::<Result<Vec<_>>>()?;
    let request = if mode == "publish-subscribe" { "SUB a 1\r\n" } else { "1 1 abc\r\n" };
    for peer in &mut peers {
        // This fails if the server has closed the connection.
        let _ = peer.send(request);
    }
    for (index, mut peer) in peers.into_iter().enumerate() {
        match index % 3 {
            0 => peer.reset()?,
            1 => drop(peer),
            _ => {
                let _ = peer.finish();
                peer.wait_closed()?;
            }
        }
    }
    serves(mode, &process.addr)?;
    until("everything is released", || {
        Ok(entries("task")? == threads && entries("fd")? == descriptors)
    })
}

/// With 12 threads allowed, each of 30 connections is served or refused, and later ones are served.
fn limits(mode: &str) -> Result<()> {
    // A user of its own, because the kernel counts the threads of a user.
    let user = 61_000 + MODES.iter().position(|it| *it == mode).unwrap_or_default();
    let user = format!("--reuid={user}");
    let (running, backend) = serve(mode)?;
    drop(running);
    let args = match &backend {
        Some(backend) => ["127.0.0.1:0", &backend.addr],
        None if mode == "decentralised" => ["node", "127.0.0.1:0"],
        None => ["serve", "127.0.0.1:0"],
    };
    let ours = program(mode).to_string_lossy();
    let limited = ["--clear-groups", &user, "prlimit", "--nproc=12", &ours];
    let args = [&limited[..], &args].concat();
    let process = Process::start("", "setpriv".as_ref(), &args)?.listening()?;
    let peers = (0..30).map(|_| Peer::connect(&process.addr)).collect::<Result<Vec<_>>>()?;
    process.expect(" refused: ")?;
    for mut peer in peers {
        let _ = peer.finish();
        peer.wait_closed()?;
    }
    until("it serves again", || Ok(serves(mode, &process.addr).is_ok()))
}
