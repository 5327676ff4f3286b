//! System calls, counted from outside, where the kernel lets us.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use procfs::process::Process;

const EVENT: &str = "raw_syscalls:sys_enter";
/// How long perf or strace may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    Perf,
    /// It slows the server down a hundred times: good for the count, and for nothing else.
    Strace,
    Nothing,
}

impl Counter {
    /// The best that works here.
    pub fn choose() -> Self {
        let works = |counter: &Self| counter.count_cat().is_ok_and(|calls| calls > 0);
        [Self::Perf, Self::Strace].into_iter().find(works).unwrap_or(Self::Nothing)
    }

    /// The calls that `cat` makes for a hundred lines.
    ///
    /// That one may count one's own children says nothing: the servers are not perf's or strace's.
    fn count_cat(self) -> Result<u64> {
        let mut cat =
            Helper::start(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut input = cat.0.stdin.take().context("cat has no stdin")?;
        let mut output = cat.0.stdout.take().context("cat has no stdout")?;
        let mut work = || -> Result<()> {
            for _ in 0..100 {
                input.write_all(b"\n")?;
                output.read_exact(&mut [0])?;
            }
            Ok(())
        };
        // Until it has started.
        work()?;
        let mut worked = Ok(());
        let calls = self.count(&[cat.0.id() as i32], || worked = work())?;
        worked?;
        calls.context("nothing counts")
    }

    /// The calls that these processes make during `work`; before and after it they are at rest.
    pub fn count(self, pids: &[i32], work: impl FnOnce()) -> Result<Option<u64>> {
        match self {
            Self::Perf => count_with_perf(pids, work).map(Some),
            Self::Strace => count_with_strace(pids, work).map(Some),
            Self::Nothing => Ok(None),
        }
    }
}

fn count_with_perf(pids: &[i32], work: impl FnOnce()) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let path = |name| dir.path().join(name);
    let fifo = |name| -> Result<File> {
        mkfifo(&path(name), Mode::S_IRWXU)?;
        // For reading and writing: so opening it does not wait for perf.
        let flags = libc::O_NONBLOCK;
        Ok(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path(name))?)
    };
    let (mut control, mut answers) = (fifo("control")?, fifo("answers")?);
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let fifos = format!("fifo:{},{}", path("control").display(), path("answers").display());
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", EVENT, "-D", "-1", "--control", &fifos, "-p", &pids.join(",")]);
    perf.arg("-o").arg(path("result"));
    let mut perf = Helper::start(silent(&mut perf))?;

    let mut tell = |what: &str| -> Result<()> {
        control.write_all(what.as_bytes())?;
        perf.until("answer", || match answers.read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            result => Ok(result? > 0),
        })
    };
    tell("enable\n")?;
    work();
    tell("disable\n")?;
    perf.end()?;
    let result = fs::read_to_string(path("result"))?;
    let line = result.lines().find(|line| line.contains(EVENT)).context("perf counted nothing")?;
    let count = line.split(',').next().unwrap_or_default();
    // Of threads that did not run it says `<not counted>`.
    if count.starts_with("<not counted") { Ok(0) } else { count.parse().context(line.to_owned()) }
}

fn count_with_strace(pids: &[i32], work: impl FnOnce()) -> Result<u64> {
    let result = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace");
    strace.args(["-c", "-U", "calls,name", "-f", "-o"]).arg(result.path());
    strace.args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
    let mut strace = Helper::start(silent(&mut strace))?;
    for &pid in pids {
        strace.until("attach", || {
            let mut tasks = Process::new(pid)?.tasks()?.flatten();
            Ok(tasks.all(|task| task.status().is_ok_and(|status| status.tracerpid != 0)))
        })?;
    }
    work();
    strace.end()?;
    total(result.path())
}

/// The number in the last line, `3456 total`.
fn total(path: &Path) -> Result<u64> {
    let table = fs::read_to_string(path)?;
    let calls = table.lines().find_map(|line| line.trim().strip_suffix(" total"));
    calls.context("strace counted nothing")?.trim().parse().context("strace's table")
}

fn silent(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// A program that must not outlive us.
struct Helper(Child);

impl Helper {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn()?))
    }

    fn until(&mut self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !done()? {
            if self.0.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                bail!("the program that counts system calls does not {what}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT)?;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                bail!("the program that counts system calls does not end");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It fails where it has ended, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_process_calls() {
        for counter in [Counter::Perf, Counter::Strace] {
            match counter.count_cat() {
                // A read and a write for each line; one more or less at the beginning, where it
                // sleeps in a read, and at the end, where strace may leave before a write returns.
                Ok(calls) => assert!((198..=202).contains(&calls), "{counter:?}: {calls}"),
                Err(error) => eprintln!("{counter:?} may not count here: {error:#}"),
            }
        }
    }
}
