//! Runs a server under strace while the clients play.

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

use crate::play::Play;
use crate::servers::Server;
use crate::strace;

/// The calls that the two phases, the patterns and the threads consist of, and `prctl`, by which a
/// thread names itself. `?`: where the machine has it.
const CALLS: &str = "trace=?%network,?read,?readv,?write,?writev,?pread64,?pwrite64,?preadv,\
    ?pwritev,?close,?poll,?ppoll,?select,?pselect6,?epoll_wait,?epoll_pwait,?epoll_pwait2,\
    ?epoll_ctl,?ioctl,?fcntl,?clone,?clone3,?fork,?vfork,?exit,?exit_group,?futex,?nanosleep,\
    ?clock_nanosleep,?rt_sigsuspend,?rt_sigtimedwait,?rt_sigreturn,?rt_sigqueueinfo,?tgkill,\
    ?io_uring_enter,?wait4,?pause,?prctl,?restart_syscall";

/// How long a server may take to start and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing can be traced on this machine; `None` where it can.
pub fn hindrance() -> Option<String> {
    let probe =
        Command::new("strace").args(strace::FORMAT).args(["-o", "/dev/null", "true"]).output();
    match probe {
        Err(error) if error.kind() == ErrorKind::NotFound => Some(
            "strace is not installed; install it with\n  \
             sudo apt install strace      (Debian, Ubuntu)\n  \
             sudo dnf install strace      (Fedora)\n  \
             sudo pacman -S strace        (Arch)"
                .to_owned(),
        ),
        Err(error) => Some(format!("strace cannot be run: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!(
                "strace cannot trace here. Version 5.17 or later is needed, and the permission \
                 to trace (ptrace, which containers may refuse). It says:\n{}",
                said.trim_end()
            ))
        }
    }
}

/// Builds the server, in the profile that the lab was built in.
pub fn build(server: &Server) -> Result<PathBuf> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let build = CargoBuild::new().manifest_path(manifest).package(server.package).bin(server.name);
    let build = if cfg!(debug_assertions) { build } else { build.release() };
    let run = build.run().with_context(|| format!("{} does not build", server.name))?;
    Ok(run.path().to_owned())
}

/// Plays against `binary` under strace. What happened, as text: the play, then the trace. It is
/// also what is in the file at `path` afterwards.
pub fn record(server: &Server, binary: &Path, path: &Path) -> Result<String> {
    let said = path.with_extension("stderr");
    let mut command = Command::new("strace");
    command.args(strace::FORMAT).args(["--seccomp-bpf", "-e", CALLS, "-o"]).arg(path);
    command.arg(binary).arg("127.0.0.1:0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&said)?);
    // What a server says costs calls; only where nothing else tells what happened is it wanted.
    command.env("RUST_LOG", if server.kernel_copies { "trace" } else { "off" });
    let mut traced = Traced(command.spawn().context("cannot start strace")?);
    let stdout = traced.0.stdout.take().context("strace has no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address: Option<SocketAddr> =
        line.trim_end().rsplit_once(' ').and_then(|(_, address)| address.parse().ok());
    let Some(address) = address else {
        bail!("{} does not listen. It says:\n{}", server.name, fs::read_to_string(&said)?);
    };
    // From its line to its first wait it has a few more calls to make.
    thread::sleep(Duration::from_millis(100));
    let play = Play::perform(address, server.kind)?;
    traced.stop()?;
    let text = play.write() + &fs::read_to_string(path)?;
    fs::write(path, &text)?;
    fs::remove_file(said)?;
    Ok(text)
}

/// strace and the server below it, which end with this.
struct Traced(Child);

impl Traced {
    /// Asks the server to stop; strace ends with it.
    fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the server does not stop on SIGTERM");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// To the server only: strace itself takes no notice of signals while it writes to a file.
    fn signal(&self, signal: Signal) -> Result<()> {
        let strace = self.0.id();
        let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"))?;
        for child in children.split_whitespace() {
            kill(Pid::from_raw(child.parse()?), signal)?;
        }
        Ok(())
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Nothing is left to do about errors here.
            let _ = self.signal(Signal::SIGKILL);
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
