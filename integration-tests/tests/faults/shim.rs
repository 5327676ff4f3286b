//! Short counts and spurious readiness, by a library that the server loads before the C library.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use contract::catalog::{Entry, Kind};
use contract::{Launch, Target, binaries, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::injection;
use crate::load::{self, Outcome, Peer};

/// Servers whose calls do not go through the C library, with the reason.
pub const OUT_OF_REACH: &[(&str, &str)] = &[
    ("uring-echo", "the kernel reads and writes by itself"),
    ("proactor-chat-uring", "the kernel reads and writes by itself"),
];

/// Servers that wait by a call that the library can make return without data.
pub const WAITS_IN_LIBC: &[&str] = &[
    "select-echo",
    "poll-echo",
    "epoll-echo",
    "epoll-echo-edge",
    "epoll-echo-reuseport",
    "epoll-echo-exclusive",
    "epoll-echo-handoff",
    "proactor-chat-simulated",
];

/// Builds the library.
pub fn build() -> Result<PathBuf> {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = LIBRARY.get() {
        return Ok(path.clone());
    }
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        // With the features that `cargo test` has built it with.
        .args(["build", "--workspace", "--example", "shim"])
        .arg("--message-format=json-render-diagnostics")
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the library does not build");
    let mut path = None;
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        if message["target"]["name"] == "shim" {
            path = message["filenames"][0].as_str().map(PathBuf::from);
        }
    }
    let path = path.context("cargo does not say where the library is")?;
    Ok(LIBRARY.get_or_init(|| path).clone())
}

/// A server behaves as always while the library is loaded.
pub fn check(entry: &'static Entry, mode: &str) -> Result<()> {
    let target = Target::from(entry).quiet();
    let mut arguments = vec![
        format!("LD_PRELOAD={}", build()?.display()),
        format!("SHIM={mode}"),
        binaries::path(entry.name)?.display().to_string(),
        "127.0.0.1:0".to_owned(),
    ];
    arguments.extend(target.argument().map(str::to_owned));
    let is_chat = entry.kind == Kind::Chat;
    let launch = Launch::new(entry.name, arguments).program("env");
    launch.log_level("warn").serve(|server| {
        let address = server.address();
        // A server that has served a client has opened all that it needs for itself.
        ensure!(Peer::connect(address, is_chat)?.exchange("first")? == Outcome::Complete);
        let before = injection::open_descriptors(server)?;
        let lost = load::run(address, is_chat)?;
        ensure!(lost == 0, "{lost} clients lost their connection");
        let mut new = Peer::connect(address, is_chat)?;
        ensure!(new.exchange("new")? == Outcome::Complete, "a new client was not served");
        drop(new);
        wait_until("the descriptors returning", injection::LIMIT, || {
            Ok((injection::open_descriptors(server)? <= before).then_some(()))
        })?;
        server.signal(Signal::TERM)?;
        let (status, _) = server.wait(injection::LIMIT)?;
        ensure!(status.code() == Some(0), "after SIGTERM it ended with {status}");
        Ok(())
    })
}
