//! The processes of a demonstration. Each runs the same program, in another role.

use std::cell::RefCell;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

/// How long [`Process::expect`] waits for a line.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running program. Its output is copied to our stdout, with the name of the process before each
/// line.
///
/// The process is killed when this value is dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    /// The address on which it listens, if it is a server.
    pub addr: String,
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
    /// Lines that were received, and that `expect` has not returned.
    skipped: RefCell<Vec<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the running program once more, in the role of a server, and waits until it listens.
    ///
    /// # Errors
    /// The process does not start, or does not listen.
    pub fn server(name: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        Self::client(name, args)?.listening()
    }

    /// Starts the running program once more, in another role.
    ///
    /// # Errors
    /// The process does not start.
    pub fn client(name: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        Self::start(name, &env::current_exe()?, args)
    }

    /// Starts `program`. If `name` is empty, its output is not copied to our stdout.
    ///
    /// # Errors
    /// The process does not start.
    pub fn start(name: &'static str, program: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let parent = getpid();
        let die_with_parent = move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // If the parent died before the prctl, the kernel sends no signal.
            if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        };
        // SAFETY: between fork(2) and exec(2) only async-signal-safe functions may be called. The
        // closure makes two system calls and does not allocate.
        unsafe { command.pre_exec(die_with_parent) };
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;

        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().map(|pipe| forward(name, pipe, sender.clone()));
        let stderr = child.stderr.take().map(|pipe| forward(name, pipe, sender));
        let readers = stdout.into_iter().chain(stderr).collect();
        Ok(Self { addr: String::new(), name, child, lines, skipped: RefCell::default(), readers })
    }

    /// Waits until the process prints the address on which it listens.
    ///
    /// # Errors
    /// The process prints no address within 20 s, or ends.
    pub fn listening(mut self) -> anyhow::Result<Self> {
        let line = self.expect("listening on ")?;
        self.addr = line.rsplit(' ').next().unwrap_or_default().into();
        Ok(self)
    }

    /// Waits for a line of output that contains `part`, and removes it. Lines that an earlier call
    /// skipped are searched first.
    ///
    /// # Errors
    /// There is no such line within 20 s, or the process ends without it.
    pub fn expect(&self, part: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        let mut skipped = self.skipped.borrow_mut();
        if let Some(index) = skipped.iter().position(|line| line.contains(part)) {
            return Ok(skipped.remove(index));
        }
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return Ok(line),
                Ok(line) => skipped.push(line),
                Err(error) => bail!("{}: no {part:?} in {skipped:?}: {error}", self.name),
            }
        }
    }

    /// Returns whether the process has printed a line that contains `part`. The line stays.
    #[must_use]
    pub fn has(&self, part: &str) -> bool {
        self.count(part) > 0
    }

    /// Returns how many printed lines contain `part`. Lines that `expect` has returned are not
    /// counted. The lines stay.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        let mut skipped = self.skipped.borrow_mut();
        skipped.extend(self.lines.try_iter());
        skipped.iter().filter(|line| line.contains(part)).count()
    }

    /// Returns the process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// The process has been waited for.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.id() as i32), signal)?)
    }

    /// Kills the process, as `kill -9` does, and waits for its end.
    ///
    /// # Errors
    /// None in practice: waitpid(2) fails only for a process that is not a child.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // This fails if the process has already been waited for.
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits until the process has ended and all its output has been read.
    ///
    /// # Errors
    /// None in practice: waitpid(2) fails only for a process that is not a child.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let status = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(status?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Starts a thread that copies lines from a pipe to our stdout and to `to`.
fn forward(name: &str, pipe: impl Read + Send + 'static, to: Sender<String>) -> JoinHandle<()> {
    let prefix = (!name.is_empty()).then(|| format!("{name:<12} | "));
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Some(prefix) = &prefix {
                // One write per line, so that the lines of several processes do not mix.
                let _ = io::stdout().write_all(format!("{prefix}{line}\n").as_bytes());
            }
            let _ = to.send(line);
        }
    })
}
