//! Runs the program `contract`.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use contract::{binaries, pitfalls};

/// How the program has ended, and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// The exit status.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Checks the exit status, and that stdout or stderr contains each of `parts`.
    pub fn expect(&self, status: i32, parts: &[&str]) -> Result<()> {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        ensure!(self.status == Some(status), "the exit status is {:?}:\n{all}", self.status);
        for part in parts {
            ensure!(all.contains(part), "{part:?} is not in:\n{all}");
        }
        Ok(())
    }
}

/// Where the server of this workspace with this name is.
pub fn server(name: &str) -> Result<String> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let names = pitfalls::PITFALLS.iter().map(|pitfall| pitfall.entry.name);
    let run_cargo = || binaries::build(names.chain(["epoll-echo"]));
    let built = BUILT.get_or_init(|| run_cargo().map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!(error))?;
    Ok(binaries::path(name)?.display().to_string())
}

/// The program with these arguments, ready to start.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contract"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Result<Output> {
    output_of(&mut program(arguments))
}

/// Runs this command to its end.
pub fn output_of(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    Ok(Output {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// The processes with `mark` in their command line, other than `contract` itself.
pub fn processes(mark: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(mark) && !line.starts_with(env!("CARGO_BIN_EXE_contract")) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Waits until `check` is true, for at most 20 seconds.
pub fn wait_until(what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !check()? {
        ensure!(start.elapsed() < Duration::from_secs(20), "waited 20 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
