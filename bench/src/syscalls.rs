//! Counts the system calls of a server from outside, where the kernel permits it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::mem;
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
use serde::{Deserialize, Serialize};

const EVENT: &str = "raw_syscalls:sys_enter";
const EXIT_EVENT: &str = "raw_syscalls:sys_exit:";
const SWITCH_EVENT: &str = "sched:sched_switch:";
/// Size of perf's buffer for recorded events.
const BUFFER: &str = "8M";
/// The calls that wait in the servers with several loops. Some architectures have only one of them.
#[cfg(target_arch = "x86_64")]
const WAIT: i64 = libc::SYS_epoll_wait;
#[cfg(not(target_arch = "x86_64"))]
const WAIT: i64 = libc::SYS_epoll_pwait2;
const PWAIT: i64 = libc::SYS_epoll_pwait;
/// How long perf or strace may take to begin or to end.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The program that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counter {
    Perf,
    /// It slows the server down a hundred times, so it is good for the count only.
    Strace,
    /// This machine has neither, or permits neither.
    None,
}

/// What a server does with short connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// How many file descriptors each thread has closed: its connections.
    pub closed: Vec<u64>,
    /// How often a thread woke up and found no connection.
    pub in_vain: u64,
}

impl Counter {
    /// Returns the best one that works here.
    pub fn choose() -> Self {
        let works = |counter: &Self| matches!(counter.count_for_cat(), Ok(Some(_)));
        [Self::Perf, Self::Strace].into_iter().find(works).unwrap_or(Self::None)
    }

    /// Records who accepts and closes connections during `work`.
    ///
    /// Returns `None` if that does not work here. strace cannot do it: it slows the server down so
    /// much that other threads get the connections.
    ///
    /// # Errors
    /// Fails if the counter cannot be started or stopped.
    pub fn trace(self, pids: &[i32], work: impl FnOnce()) -> Result<Option<Accepts>> {
        match self {
            Self::Perf => trace_with_perf(pids, work),
            Self::Strace | Self::None => Ok(None),
        }
    }

    /// Counts the system calls that `cat` makes for a hundred lines.
    ///
    /// `cat` is not a child of the counter, as the servers are not: the kernel may permit the one
    /// and not the other.
    fn count_for_cat(self) -> Result<Option<u64>> {
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
        let mut result = Ok(());
        let calls = self.count(&[cat.0.id() as i32], || result = work())?;
        result?;
        Ok(calls)
    }

    /// Counts the calls that the processes make during `work`. They must be idle before and after
    /// it.
    ///
    /// Returns `None`, and never 0, if the counter does not work. A process that works makes
    /// system calls.
    ///
    /// # Errors
    /// Fails if the counter cannot be started or stopped.
    pub fn count(self, pids: &[i32], work: impl FnOnce()) -> Result<Option<u64>> {
        let count = match self {
            Self::Perf => count_with_perf(pids, work)?,
            Self::Strace => count_with_strace(pids, work)?,
            Self::None => None,
        };
        Ok(count.filter(|&count| count > 0))
    }
}

fn count_with_perf(pids: &[i32], work: impl FnOnce()) -> Result<Option<u64>> {
    let dir = tempfile::tempdir()?;
    let result = dir.path().join("result");
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", EVENT, "-o"]).arg(&result);
    run_perf(&mut perf, dir.path(), pids, work)?;
    Ok(parse_perf(&fs::read_to_string(result)?))
}

/// Runs perf for the processes, with its events enabled during `work` only.
fn run_perf(perf: &mut Command, dir: &Path, pids: &[i32], work: impl FnOnce()) -> Result<()> {
    let path = |name| dir.join(name);
    let fifo = |name| -> Result<File> {
        mkfifo(&path(name), Mode::S_IRWXU)?;
        // Opened for reading and writing, so that opening does not wait for perf.
        let flags = libc::O_NONBLOCK;
        Ok(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path(name))?)
    };
    let (mut control, mut replies) = (fifo("control")?, fifo("replies")?);
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let fifos = format!("fifo:{},{}", path("control").display(), path("replies").display());
    perf.args(["-D", "-1", "--control", &fifos, "-p", &pids.join(",")]);
    let mut perf = Helper::start(silence(perf))?;

    let mut send_command = |command: &str| -> Result<()> {
        control.write_all(command.as_bytes())?;
        perf.wait_until("reply", || match replies.read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            result => Ok(result? > 0),
        })
    };
    send_command("enable\n")?;
    work();
    send_command("disable\n")?;
    perf.stop()
}

/// Records the system calls and context switches with perf, which takes more time than to count
/// them.
fn trace_with_perf(pids: &[i32], work: impl FnOnce()) -> Result<Option<Accepts>> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let mut perf = Command::new("perf");
    perf.args(["record", "-e", EXIT_EVENT, "-e", SWITCH_EVENT, "-m", BUFFER, "-o"]).arg(&data);
    run_perf(&mut perf, dir.path(), pids, work)?;
    let mut script = Command::new("perf");
    script.args(["script", "-F", "tid,event,trace", "-i"]).arg(&data);
    let output = script.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(parse_script(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads what perf has recorded, in the order of time: a line for each event, such as
/// `4711 raw_syscalls:sys_exit: NR 288 = -11` or `4711 sched:sched_switch: … S ==> …`.
///
/// A thread wakes up in vain in two ways:
/// - It sleeps, wakes up, and sleeps again, all in one call that waits for connections: another
///   thread was faster.
/// - Its wait returns, its next call is an accept that fails with EAGAIN, and then it waits again.
fn parse_script(script: &str) -> Option<Accepts> {
    #[derive(Default)]
    struct Thread {
        last: Last,
        /// How often it has gone to sleep in the current call.
        sleeps: u64,
        closed: u64,
    }
    #[derive(Clone, Copy, Default, PartialEq)]
    enum Last {
        Waited,
        FoundNothing,
        #[default]
        Other,
    }
    let mut threads: BTreeMap<i32, Thread> = BTreeMap::new();
    let mut in_vain = 0;
    for line in script.lines() {
        let Some((id, event)) = line.trim().split_once(' ') else { continue };
        let Ok(id) = id.parse() else { continue };
        let thread = threads.entry(id).or_default();
        let event = event.trim();
        if let Some(switch) = event.strip_prefix(SWITCH_EVENT) {
            // A thread that has to leave the core to another one is still in state R.
            let sleeps = switch.contains(" S ==>") || switch.contains("prev_state=S");
            thread.sleeps += u64::from(sleeps);
            continue;
        }
        let Some(exit) = event.strip_prefix(EXIT_EVENT) else { continue };
        let Some((call, result)) = exit.split_once(" = ") else { continue };
        let call = call.rsplit(' ').next().and_then(|number| number.parse::<i64>().ok());
        let result: i64 = result.trim().parse().unwrap_or_default();
        let sleeps = mem::take(&mut thread.sleeps);
        if matches!(call, Some(WAIT | PWAIT | libc::SYS_accept4 | libc::SYS_io_uring_enter)) {
            in_vain += sleeps.saturating_sub(1);
        }
        let failed = result == -i64::from(libc::EAGAIN);
        thread.last = match call {
            Some(WAIT | PWAIT) => {
                in_vain += u64::from(thread.last == Last::FoundNothing);
                Last::Waited
            }
            Some(libc::SYS_accept4) if failed && thread.last != Last::Other => Last::FoundNothing,
            _ => Last::Other,
        };
        thread.closed += u64::from(call == Some(libc::SYS_close));
    }
    let closed: Vec<u64> = threads.into_values().map(|thread| thread.closed).collect();
    (!closed.is_empty()).then_some(Accepts { closed, in_vain })
}

/// Reads the count from perf's line, such as `200,,raw_syscalls:sys_enter,651662,100.00,,`.
///
/// Without the permission to trace the kernel, perf silently counts in user mode instead
/// (`raw_syscalls:sys_enteru`), where this event never occurs: the result is 0 or `<not counted>`.
fn parse_perf(result: &str) -> Option<u64> {
    for line in result.lines() {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.get(2) == Some(&EVENT) {
            return fields[0].parse().ok();
        }
    }
    None
}

fn count_with_strace(pids: &[i32], work: impl FnOnce()) -> Result<Option<u64>> {
    let result = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace");
    strace.args(["-c", "-U", "calls,name", "-f", "-o"]).arg(result.path());
    strace.args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
    let mut strace = Helper::start(silence(&mut strace))?;
    for &pid in pids {
        strace.wait_until("attach", || {
            let mut tasks = Process::new(pid)?.tasks()?.flatten();
            Ok(tasks.all(|task| task.status().is_ok_and(|status| status.tracerpid != 0)))
        })?;
    }
    work();
    strace.stop()?;
    Ok(parse_strace(&fs::read_to_string(result.path())?))
}

/// Reads the count from the last line of strace's table, `3456 total`.
fn parse_strace(table: &str) -> Option<u64> {
    let total = table.lines().find_map(|line| line.trim().strip_suffix(" total"))?;
    total.trim().parse().ok()
}

fn silence(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// A program that ends with this value.
struct Helper(Child);

impl Helper {
    fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        Ok(Self(child))
    }

    fn wait_until(&mut self, expected: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !done()? {
            if self.0.try_wait()?.is_some() || start.elapsed() > TIMEOUT {
                bail!("the program that counts system calls does not {expected}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT)?;
        let start = Instant::now();
        while self.0.try_wait()?.is_none() {
            if start.elapsed() > TIMEOUT {
                bail!("the program that counts system calls does not end");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // If this fails, the program has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_process_are_counted_or_the_test_says_that_they_cannot_be() {
        for counter in [Counter::Perf, Counter::Strace] {
            match counter.count_for_cat() {
                // A read and a write per line. The counter may see one call more or less at the
                // beginning, when cat sleeps in a read, and at the end, when strace detaches
                // before a write returns.
                Ok(Some(calls)) => {
                    assert!((198..=202).contains(&calls), "{counter:?}: {calls}");
                }
                Ok(None) => eprintln!("SKIPPED: {counter:?} may not count here"),
                Err(error) => eprintln!("SKIPPED: {counter:?} does not work here: {error:#}"),
            }
        }
        assert_eq!(Counter::None.count_for_cat().expect("cat works"), None);
    }

    #[test]
    fn a_count_of_perf_in_user_mode_is_no_count() {
        let counted = "# started\n\n200,,raw_syscalls:sys_enter,651662,100.00,,\n";
        assert_eq!(parse_perf(counted), Some(200));
        assert_eq!(parse_perf("0,,raw_syscalls:sys_enteru,651662,100.00,,\n"), None);
        assert_eq!(parse_perf("<not counted>,,raw_syscalls:sys_enteru,0,100.00,,\n"), None);
        assert_eq!(parse_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(parse_perf("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(parse_perf(""), None);
    }

    #[test]
    fn wake_ups_in_vain_and_connections_of_each_thread_are_counted() {
        let exit = |call: i64, result: i64| format!("raw_syscalls:sys_exit: NR {call} = {result}");
        let sleep = "sched:sched_switch: epoll-echo:7 [120] S ==> swapper/0:0 [120]".to_owned();
        let preempted = "sched:sched_switch: epoll-echo:7 [120] R ==> bench:8 [120]".to_owned();
        let again = -i64::from(libc::EAGAIN);
        let events = [
            // Accepts one connection, and looks whether there is another one: not in vain.
            (7, exit(WAIT, 1)),
            (7, exit(libc::SYS_accept4, 9)),
            (7, exit(libc::SYS_accept4, again)),
            (7, sleep.clone()),
            // Wakes up in the kernel, leaves the core to others, and sleeps again: in vain.
            (7, preempted),
            (7, sleep.clone()),
            (7, exit(WAIT, 1)),
            // Sleeps twice, but not for a connection.
            (7, sleep.clone()),
            (7, sleep.clone()),
            (7, exit(libc::SYS_read, 6)),
            (7, exit(libc::SYS_close, 0)),
            // Wakes up, finds no connection, and waits again: in vain, with and without sleep.
            (8, exit(PWAIT, 1)),
            (8, exit(libc::SYS_accept4, again)),
            (8, sleep),
            (8, exit(PWAIT, 1)),
            (8, exit(libc::SYS_accept4, again)),
            (8, exit(WAIT, 1)),
        ];
        let script: Vec<String> =
            events.iter().map(|(thread, event)| format!("  {thread} {event}")).collect();
        let accepts = parse_script(&script.join("\n")).expect("there are events");
        assert_eq!(accepts, Accepts { closed: vec![1, 0], in_vain: 3 });
        assert_eq!(parse_script(""), None);
    }

    #[test]
    fn the_total_of_strace_is_its_last_line() {
        let table = "    calls syscall\n--------- --------\n     100 read\n      100 write\n\
                     --------- --------\n      200 total\n";
        assert_eq!(parse_strace(table), Some(200));
        assert_eq!(parse_strace(""), None);
    }
}
