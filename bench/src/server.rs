//! Builds the subjects, runs them, and says what they take.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use procfs::process::{Process, all_processes};
use serde_json::Value;

use crate::host;
use crate::subjects::Subject;

/// Where the binaries are, by name.
pub type Binaries = HashMap<String, PathBuf>;

/// How long a server may take to listen.
const START: u16 = 10_000;

/// Builds the subjects as the lab itself was built, into the same directory.
pub fn build(subjects: &[&Subject]) -> Result<Binaries> {
    let mut binaries = Binaries::new();
    // The lab's own by themselves: cargo chooses the features of what they are built on for all
    // packages of a call together, and with other packages the lab would be built once more.
    let (lab, servers): (Vec<_>, Vec<_>) =
        subjects.iter().map(|subject| subject.package).partition(|&package| package == "bench");
    for packages in [servers, lab] {
        if !packages.is_empty() {
            cargo_build(&packages, &mut binaries)?;
        }
    }
    Ok(binaries)
}

fn cargo_build(packages: &[&str], binaries: &mut Binaries) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics"]);
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    // The lab is at TARGET/PROFILE/lab.
    let lab = env::current_exe()?;
    command.arg("--target-dir").arg(lab.ancestors().nth(2).context("the lab has been moved")?);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    for package in packages {
        command.args(["--package", package]);
    }
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = cargo.stdout.take().context("cargo has no stdout")?;
    for line in BufReader::new(stdout).lines() {
        let message: Value = serde_json::from_str(&line?)?;
        if let (Some(name), Some(path)) =
            (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            binaries.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    ensure!(cargo.wait()?.success(), "the servers do not build");
    Ok(())
}

/// A server that runs. Dropping it kills it and its children.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: File,
    pub addr: SocketAddr,
}

/// A server that ended before it listened, with what it said.
#[derive(Debug, thiserror::Error)]
#[error("it does not start: {0}")]
pub struct DoesNotStart(String);

impl Server {
    /// Starts it on a free port, on its core, with a log of warnings.
    pub fn start(path: &Path, argument: Option<&str>, core: usize) -> Result<Self> {
        let log = tempfile::tempfile()?;
        let mut command = Command::new(path);
        command.arg("127.0.0.1:0").args(argument).env("RUST_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        command.process_group(0);
        let set_up = move || {
            host::pin(core).map_err(std::io::Error::other)?;
            // However the lab ends.
            Ok(set_pdeathsig(Signal::SIGKILL)?)
        };
        // SAFETY: it makes two system calls; only their failure, which ends the child, allocates.
        unsafe { command.pre_exec(set_up) };
        let child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, log, addr };
        server.addr = server.wait_for_address()?;
        Ok(server)
    }

    fn wait_for_address(&mut self) -> Result<SocketAddr> {
        let stdout = self.child.stdout.as_mut().context("the server has no stdout")?;
        let mut listens = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        if poll(&mut listens, PollTimeout::from(START))? == 0 {
            bail!(DoesNotStart("it does not say that it listens".to_owned()));
        }
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim_end().rsplit_once(" listening on ") {
            Some((_, addr)) => Ok(addr.parse()?),
            None => bail!(DoesNotStart(self.last_words())),
        }
    }

    /// The end of its log.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        let _ = self.log.rewind().and_then(|()| self.log.read_to_string(&mut text));
        text.lines().next_back().unwrap_or("it says nothing").to_owned()
    }

    /// It and its children, as they are now.
    pub fn tree(&self) -> Result<Tree> {
        let group = self.child.id() as i32;
        let ours = |process: &Process| process.stat().is_ok_and(|stat| stat.pgrp == group);
        let processes: Vec<_> = all_processes()?.flatten().filter(ours).collect();
        ensure!(!processes.is_empty(), "the server has ended");
        Ok(Tree(processes))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It fails where the server has ended, and then there is nothing to do.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The processes of a server.
#[derive(Debug)]
pub struct Tree(Vec<Process>);

/// Processor time that a server has used.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// By the nanosecond: the process's own clock, on which the threads that have ended are too.
    pub time: Duration,
    /// How much of it was in the process itself and in the kernel, by the clock's ticks, which
    /// tell the proportion only.
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// How often a thread was given the core.
    pub slices: u64,
}

impl Used {
    pub fn since(self, start: Self) -> Self {
        Self {
            time: self.time.saturating_sub(start.time),
            user_ticks: self.user_ticks.saturating_sub(start.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(start.system_ticks),
            slices: self.slices.saturating_sub(start.slices),
        }
    }

    pub fn user_share(self) -> Option<f64> {
        let ticks = self.user_ticks + self.system_ticks;
        (ticks > 0).then(|| self.user_ticks as f64 / ticks as f64)
    }
}

impl Tree {
    pub fn used(&self) -> Result<Used> {
        let mut used = Used { time: Duration::ZERO, user_ticks: 0, system_ticks: 0, slices: 0 };
        for process in &self.0 {
            let clock = clock_getcpuclockid(Pid::from_raw(process.pid()))?;
            used.time += Duration::from(clock_gettime(clock)?);
        }
        for process in &self.0 {
            let stat = process.stat()?;
            used.user_ticks += stat.utime;
            used.system_ticks += stat.stime;
            // One that ends meanwhile takes its count along.
            let tasks = process.tasks()?.flatten().flat_map(|task| task.schedstat());
            used.slices += tasks.map(|schedstat| schedstat.pcount).sum::<u64>();
        }
        Ok(used)
    }

    /// Bytes that they would give back by ending: what several share counts in parts.
    pub fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for process in &self.0 {
            for area in process.smaps_rollup()?.memory_map_rollup {
                sum += area.extension.map.get("Pss").copied().unwrap_or(0);
            }
        }
        Ok(sum)
    }

    pub fn threads(&self) -> Result<usize> {
        let threads = self.0.iter().map(|process| Ok(process.stat()?.num_threads as usize));
        threads.sum()
    }

    pub fn pids(&self) -> Vec<i32> {
        self.0.iter().map(Process::pid).collect()
    }
}
