//! Builds the subjects, runs them, and measures what they use.

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

/// The paths of the binaries, by name.
pub type Binaries = HashMap<String, PathBuf>;

/// How long a server may take to listen, in milliseconds.
const START_TIMEOUT: u16 = 10_000;

/// Returns the target directory. This binary is at TARGET/PROFILE/bench.
pub fn target_dir() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).context("this binary is not in a target directory")?;
    Ok(target.to_owned())
}

/// Builds the subjects in the profile of this binary, into the same target directory.
pub fn build(subjects: &[&Subject]) -> Result<Binaries> {
    let mut binaries = Binaries::new();
    // The references and baselines are built separately. Cargo unifies the features of the
    // dependencies of all packages that it builds together, so it would build this package again
    // with other features.
    let (catalog, own): (Vec<&Subject>, Vec<&Subject>) =
        subjects.iter().partition(|subject| subject.is_from_catalog());
    for group in [catalog, own] {
        if !group.is_empty() {
            cargo_build(group.iter().map(|subject| subject.package), &mut binaries)?;
        }
    }
    Ok(binaries)
}

fn cargo_build<'a>(packages: impl Iterator<Item = &'a str>, binaries: &mut Binaries) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics"]);
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.arg("--target-dir").arg(target_dir()?);
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

/// A running server. Dropping it kills the server and its children.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: File,
    pub addr: SocketAddr,
}

impl Server {
    /// Starts a server on a free port and on its cores. Its log contains warnings only.
    ///
    /// # Errors
    /// Fails if it does not listen, with the last line of its log.
    pub fn start(path: &Path, arguments: &[String], cores: Vec<usize>) -> Result<Self> {
        let log = tempfile::tempfile()?;
        let mut command = Command::new(path);
        command.arg("127.0.0.1:0").args(arguments).env("RUST_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        command.process_group(0);
        let set_up = move || {
            host::pin(&cores).map_err(std::io::Error::other)?;
            // The server ends however the benchmark ends.
            Ok(set_pdeathsig(Signal::SIGKILL)?)
        };
        // SAFETY: the closure makes two system calls. It allocates only if one of them fails, and
        // the child ends then.
        unsafe { command.pre_exec(set_up) };
        let child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, log, addr };
        server.addr = server.read_address()?;
        Ok(server)
    }

    fn read_address(&mut self) -> Result<SocketAddr> {
        let stdout = self.child.stdout.as_mut().context("the server has no stdout")?;
        let mut readable = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut readable, PollTimeout::from(START_TIMEOUT))?;
        ensure!(ready > 0, "the server does not start: it prints no address");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim_end().rsplit_once(" listening on ") {
            Some((_, addr)) => Ok(addr.parse()?),
            None => bail!("the server does not start: {}", self.last_log_line()),
        }
    }

    fn last_log_line(&mut self) -> String {
        let mut text = String::new();
        let _ = self.log.rewind().and_then(|()| self.log.read_to_string(&mut text));
        text.lines().next_back().unwrap_or("no message").to_owned()
    }

    /// Returns the server and its children, as they are now.
    pub fn processes(&self) -> Result<Processes> {
        let group = self.child.id() as i32;
        let is_in_group = |process: &Process| process.stat().is_ok_and(|stat| stat.pgrp == group);
        let processes: Vec<_> = all_processes()?.flatten().filter(is_in_group).collect();
        ensure!(!processes.is_empty(), "the server has ended");
        Ok(Processes(processes))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If this fails, the server has already ended.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The processes of a server.
#[derive(Debug)]
pub struct Processes(Vec<Process>);

/// CPU time that a server has used.
#[derive(Clone, Copy, Debug)]
pub struct CpuUsage {
    /// From the processes' CPU clocks, which have nanoseconds, and include threads that ended.
    pub time: Duration,
    /// User and kernel time in clock ticks, which are only good for their ratio.
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// How often a thread was scheduled.
    pub slices: u64,
}

impl CpuUsage {
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

impl Processes {
    /// Returns the CPU time of each thread, by its ID.
    pub fn thread_times(&self) -> Result<HashMap<i32, Duration>> {
        let mut times = HashMap::new();
        for process in &self.0 {
            for task in process.tasks()?.flatten() {
                let time = Duration::from_nanos(task.schedstat()?.sum_exec_runtime);
                times.insert(task.tid, time);
            }
        }
        Ok(times)
    }

    pub fn cpu_usage(&self) -> Result<CpuUsage> {
        let mut usage =
            CpuUsage { time: Duration::ZERO, user_ticks: 0, system_ticks: 0, slices: 0 };
        for process in &self.0 {
            let clock = clock_getcpuclockid(Pid::from_raw(process.pid()))?;
            usage.time += Duration::from(clock_gettime(clock)?);
        }
        for process in &self.0 {
            let stat = process.stat()?;
            usage.user_ticks += stat.utime;
            usage.system_ticks += stat.stime;
            // The count of a thread that ends in the meantime is lost.
            let tasks = process.tasks()?.flatten().flat_map(|task| task.schedstat());
            usage.slices += tasks.map(|schedstat| schedstat.pcount).sum::<u64>();
        }
        Ok(usage)
    }

    /// Bytes of memory. Pages that several processes share count in proportion.
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
