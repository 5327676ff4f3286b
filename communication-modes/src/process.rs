//! The parts of a demonstration: processes of the same program, each in its role.

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
use nix::sys::signal::Signal;

/// How long a part may take to say what it is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running program; what it says goes to our stdout, behind its name. It is killed when this
/// is dropped, and when we are killed.
#[derive(Debug)]
pub struct Process {
    /// The address that it said it listens on.
    pub addr: String,
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
    /// Lines that were not what somebody waited for.
    passed: RefCell<Vec<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the running program once more, as a server: waits until it listens.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn server(name: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        Self::client(name, args)?.listening()
    }

    /// Starts the running program once more, as something else than a server.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn client(name: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        Self::start(name, &env::current_exe()?, args)
    }

    /// Starts `program`; without a name, it is silent.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(name: &'static str, program: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let dies_with_us = || Ok(prctl::set_pdeathsig(Signal::SIGKILL)?);
        // SAFETY: between fork(2) and exec(2), where only async-signal-safe calls are allowed, it
        // makes one system call and allocates nothing.
        unsafe { command.pre_exec(dies_with_us) };
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;

        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().map(|out| forward(name, out, sender.clone()));
        let stderr = child.stderr.take().map(|out| forward(name, out, sender));
        let readers = stdout.into_iter().chain(stderr).collect();
        Ok(Self { addr: String::new(), name, child, lines, passed: RefCell::default(), readers })
    }

    /// Waits until it says where it listens.
    ///
    /// # Errors
    /// Where it does not within 20 s.
    pub fn listening(mut self) -> anyhow::Result<Self> {
        let line = self.expect("listening on ")?;
        self.addr = line.rsplit(' ').next().unwrap_or_default().into();
        Ok(self)
    }

    /// Takes out the first line that contains `part`, of those it said and those it will say.
    ///
    /// # Errors
    /// Where none comes within 20 s, or the process ends without.
    pub fn expect(&self, part: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = self.passed.borrow_mut();
        if let Some(index) = passed.iter().position(|line| line.contains(part)) {
            return Ok(passed.remove(index));
        }
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return Ok(line),
                Ok(line) => passed.push(line),
                Err(error) => bail!("{}: no {part:?} in {passed:?}: {error}", self.name),
            }
        }
    }

    /// Whether it has said a line that contains `part`; the line stays.
    #[must_use]
    pub fn has(&self, part: &str) -> bool {
        let mut passed = self.passed.borrow_mut();
        passed.extend(self.lines.try_iter());
        passed.iter().any(|line| line.contains(part))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// None in practice: `waitpid(2)` fails for what is not a child.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // This fails where it has ended already.
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits until it has ended and all that it said has been shown.
    ///
    /// # Errors
    /// None in practice: `waitpid(2)` fails for what is not a child.
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

fn forward(name: &str, from: impl Read + Send + 'static, to: Sender<String>) -> JoinHandle<()> {
    let prefix = (!name.is_empty()).then(|| format!("{name:<12} | "));
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if let Some(prefix) = &prefix {
                // One write a line, so that lines of several processes do not mix.
                let _ = io::stdout().write_all(format!("{prefix}{line}\n").as_bytes());
            }
            let _ = to.send(line);
        }
    })
}
