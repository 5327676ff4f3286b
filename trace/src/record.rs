//! Runs a server under strace while the clients talk to it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use escargot::CargoBuild;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clients;
use crate::servers::Server;
use crate::strace;

/// The system calls of the two phases, the patterns and the threads, and `prctl`, with which a
/// thread names itself. `?` means: if this machine has the call.
const CALLS: &str = "trace=?%network,?read,?readv,?write,?writev,?pread64,?pwrite64,?preadv,\
    ?pwritev,?close,?poll,?ppoll,?select,?pselect6,?epoll_wait,?epoll_pwait,?epoll_pwait2,\
    ?epoll_ctl,?ioctl,?fcntl,?clone,?clone3,?fork,?vfork,?exit,?exit_group,?futex,?nanosleep,\
    ?clock_nanosleep,?rt_sigsuspend,?rt_sigtimedwait,?rt_sigreturn,?rt_sigqueueinfo,?tgkill,\
    ?io_uring_enter,?wait4,?pause,?prctl,?restart_syscall";

/// The longest time that a server may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between the line that a server prints and its first wait, generously.
const STARTUP: Duration = Duration::from_millis(100);

/// Checks that strace works on this machine.
///
/// # Errors
/// Fails with the reason, and with what to do about it.
pub fn check_strace() -> Result<()> {
    let probe =
        Command::new("strace").args(strace::FORMAT).args(["-o", "/dev/null", "true"]).output();
    match probe {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "strace is not installed (Debian, Ubuntu: apt install strace; \
             Fedora: dnf install strace; Arch: pacman -S strace)"
        ),
        Err(error) => Err(error).context("cannot run strace"),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr);
            let first_line = message.lines().next().unwrap_or("no message");
            bail!(
                "strace cannot trace here ({first_line}); it needs version 5.17 and the \
                 permission to use ptrace, which containers may refuse"
            )
        }
    }
}

/// Builds the server in the profile in which this program was built.
///
/// # Errors
/// Fails if the server does not build.
pub fn build(server: &Server) -> Result<PathBuf> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let package = server.entry.package;
    let build = CargoBuild::new().manifest_path(manifest).package(package).bin(server.name());
    let build = if cfg!(debug_assertions) { build } else { build.release() };
    let run = build.run().with_context(|| format!("{} does not build", server.name()))?;
    Ok(run.path().to_owned())
}

/// Runs the session against `binary` under strace, and returns the recording: the session, then
/// the trace. The recording is also written to `path`.
///
/// # Errors
/// Fails if the server does not listen, does not speak its protocol, or does not stop.
pub fn record(server: &Server, binary: &Path, path: &Path) -> Result<String> {
    let stderr = path.with_extension("stderr");
    // Tracing slows a call, and a server calls poll(2) before each line of its log.
    let calls = if server.notes.kernel_copies {
        CALLS.replace("?poll,?ppoll,", "")
    } else {
        CALLS.to_owned()
    };
    let mut command = Command::new("strace");
    command.args(strace::FORMAT).args(["--seccomp-bpf", "-e", &calls, "-o"]).arg(path);
    command.arg(binary).arg("127.0.0.1:0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&stderr)?);
    // Logging costs system calls. It is on only where nothing else shows what happened.
    command.env("RUST_LOG", if server.notes.kernel_copies { "trace" } else { "off" });
    let mut strace = Strace(command.spawn().context("cannot start strace")?);
    let stdout = strace.0.stdout.take().context("strace has no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim_end().rsplit_once(' ').and_then(|(_, address)| address.parse().ok());
    let Some(address): Option<SocketAddr> = address else {
        let log = fs::read_to_string(&stderr)?;
        bail!("{} does not listen: {}", server.name(), log.lines().last().unwrap_or("no message"));
    };
    thread::sleep(STARTUP);
    let session = clients::run(address, server.entry.kind)?;
    strace.stop_server()?;
    let text = session.to_text() + &fs::read_to_string(path)?;
    fs::write(path, &text)?;
    fs::remove_file(stderr)?;
    Ok(text)
}

/// A running strace with its server. Dropping it kills both.
struct Strace(Child);

impl Strace {
    /// Stops the server. strace ends when its server has ended.
    fn stop_server(&mut self) -> Result<()> {
        self.signal_server(Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the server does not stop on SIGTERM");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Signals the server. strace itself ignores signals while it writes to a file.
    fn signal_server(&self, signal: Signal) -> Result<()> {
        let strace = self.0.id();
        let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"))?;
        for child in children.split_whitespace() {
            kill(Pid::from_raw(child.parse()?), signal)?;
        }
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // If this fails, the processes have already ended.
            let _ = self.signal_server(Signal::SIGKILL);
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
