//! Starts a server ([`Launch`]), observes it, and ends it ([`Server`]).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io_uring::{IoringSetupFlags, io_uring_params, io_uring_setup};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process, kill_process_group,
    pidfd_open, prlimit, set_parent_process_death_signal, setrlimit,
};
use socket2::{Domain, Socket, Type};

use crate::wait::{TIMEOUT, timeout, wait_until};
use crate::{Usage, binaries, usage};

/// Why there is no `io_uring` for a server, if so: asks the kernel for what the servers ask it for.
#[must_use]
pub fn no_io_uring() -> Option<&'static str> {
    let mut options = io_uring_params::default();
    options.flags = IoringSetupFlags::SINGLE_ISSUER | IoringSetupFlags::DEFER_TASKRUN;
    // SAFETY: no flag is set that makes the kernel use memory of ours.
    let ring = unsafe { io_uring_setup(1, &mut options) };
    ring.is_err().then_some("the kernel refuses io_uring")
}

/// A server about to be started.
#[derive(Debug)]
pub struct Launch {
    name: String,
    /// The program, if it is not a binary of the workspace.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    log_level: Option<&'static str>,
    fd_limit: Option<u64>,
    /// Whether only the soft limit is set.
    fd_limit_is_soft: bool,
    signal_queue_limit: Option<u64>,
}

impl Launch {
    /// The binary of the workspace with this name, with these arguments.
    #[must_use]
    pub fn new<A: Into<OsString>>(
        name: impl Into<String>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            name: name.into(),
            program: None,
            arguments: arguments.into_iter().map(Into::into).collect(),
            log_level: None,
            fd_limit: None,
            fd_limit_is_soft: false,
            signal_queue_limit: None,
        }
    }

    /// The program `name` as a reader starts it, with a shell command.
    ///
    /// If the command is `cargo run`, Cargo prints errors only, and then becomes the program.
    #[must_use]
    pub fn shell(name: impl Into<String>, command: &str) -> Self {
        let command = format!("CARGO_TERM_QUIET=true {command}");
        Self::new(name, ["-c", &command]).program("bash")
    }

    /// Starts this program instead of the binary of the workspace.
    #[must_use]
    pub fn program(self, program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// Sets `RUST_LOG`.
    #[must_use]
    pub fn log_level(self, level: &'static str) -> Self {
        Self { log_level: Some(level), ..self }
    }

    /// Sets `RLIMIT_NOFILE`, soft and hard.
    #[must_use]
    pub fn fd_limit(self, limit: u64) -> Self {
        Self { fd_limit: Some(limit), ..self }
    }

    /// Sets the soft `RLIMIT_NOFILE`, which [`Server::set_fd_limit`] can raise again.
    #[must_use]
    pub fn soft_fd_limit(self, limit: u64) -> Self {
        Self { fd_limit: Some(limit), fd_limit_is_soft: true, ..self }
    }

    /// Sets `RLIMIT_SIGPENDING`, the number of signals that can be queued for this user.
    #[must_use]
    pub fn signal_queue_limit(self, limit: u64) -> Self {
        Self { signal_queue_limit: Some(limit), ..self }
    }

    /// Starts the server and runs `case` against it. See [`Server::check_result`].
    pub fn serve(self, case: impl FnOnce(&mut Server) -> Result<()>) -> Result<()> {
        let mut server = self.start()?;
        let result = case(&mut server);
        server.check_result(result)
    }

    /// Starts the server, and returns when it listens.
    pub fn start(self) -> Result<Server> {
        let name = self.name.clone();
        let mut server = self.spawn_with_stdout(Stdio::piped())?;
        let line = server.first_line();
        let line = line.map_err(|error| anyhow!("{error:#}\n{}", server.log_tail()))?;
        let address = line.strip_prefix(&format!("{name} listening on "));
        let address = address.and_then(|address| address.trim_end().parse().ok());
        server.address =
            address.with_context(|| format!("the first line on stdout is {line:?}"))?;
        Ok(server)
    }

    /// Starts the server with this as its stdout, where nobody can read that it listens; or with
    /// none at all.
    pub fn start_without_stdout(mut self, stdout: Option<OwnedFd>) -> Result<Server> {
        // As it cannot tell its port it gets one, which is ours until it listens on it: the
        // kernel lets two sockets that both say SO_REUSEADDR have it while neither listens.
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        reserved.set_reuse_address(true)?;
        reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = reserved.local_addr()?.as_socket().context("not an IP address")?;
        if let Some(first) = self.arguments.first_mut() {
            *first = address.to_string().into();
        }

        let mut server = match stdout {
            Some(stdout) => self.spawn_with_stdout(stdout.into())?,
            None => self.spawn_through_shell()?,
        };
        server.address = address;
        wait_until("the server listening", TIMEOUT, || {
            server.check_alive()?;
            Ok(TcpStream::connect(address).ok())
        })
        .map_err(|error| anyhow!("{error:#}\n{}", server.log_tail()))?;
        Ok(server)
    }

    /// Runs the server where it ends by itself.
    pub fn output(self) -> Result<Output> {
        self.output_within(timeout())
    }

    /// The same, where that may take so long.
    pub fn output_within(self, limit: Duration) -> Result<Output> {
        let stdout = tempfile::tempfile()?;
        let mut server = self.spawn_with_stdout(stdout.try_clone()?.into())?;
        let status = server.wait(limit).context("it ran on")?.0;
        Ok(Output { status, stdout: contents(&stdout)?, stderr: server.log()? })
    }

    /// Starts it, and waits for nothing. What it writes to stdout comes into its log, as both are
    /// on the screen of a reader.
    pub fn spawn(self) -> Result<Server> {
        let log = tempfile::tempfile()?;
        self.spawn_into(log.try_clone()?.into(), log)
    }

    fn spawn_with_stdout(self, stdout: Stdio) -> Result<Server> {
        // A file takes any amount of log, and nobody has to read it meanwhile.
        self.spawn_into(stdout, tempfile::tempfile()?)
    }

    fn spawn_into(self, stdout: Stdio, log: File) -> Result<Server> {
        let mut command = match &self.program {
            Some(program) => Command::new(program),
            None => Command::new(binaries::path(&self.name)?),
        };
        command.args(&self.arguments);
        self.spawn_command(command, stdout, log)
    }

    /// Only a shell can start a program with a descriptor closed; std puts something there.
    fn spawn_through_shell(self) -> Result<Server> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" >&-"]);
        command.arg(binaries::path(&self.name)?).args(&self.arguments);
        self.spawn_command(command, Stdio::null(), tempfile::tempfile()?)
    }

    fn spawn_command(self, mut command: Command, stdout: Stdio, log: File) -> Result<Server> {
        command.stdin(Stdio::null()).stdout(stdout).stderr(log.try_clone()?);
        command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        command.envs(self.log_level.map(|level| ("RUST_LOG", level)));
        // A group of its own, which its children are in too: SIGSTOP and SIGKILL reach all.
        command.process_group(0);
        let hard =
            if self.fd_limit_is_soft { getrlimit(Resource::Nofile).maximum } else { self.fd_limit };
        let limits = [
            (Resource::Nofile, self.fd_limit, hard),
            (Resource::Sigpending, self.signal_queue_limit, self.signal_queue_limit),
        ];
        let before_exec = move || {
            // It ends with the thread that starts it, in whatever way the tests end.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            for (resource, limit, maximum) in limits {
                if limit.is_some() {
                    setrlimit(resource, Rlimit { current: limit, maximum })?;
                }
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only; it takes no lock and allocates nothing.
        unsafe { command.pre_exec(before_exec) };
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let pid = Pid::from_child(&child);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Server { name: self.name, child, pid, log, address, ended: false })
    }
}

/// What a server that ended by itself left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A server that runs. Dropping it kills it and all its children.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    pid: Pid,
    log: File,
    address: SocketAddr,
    ended: bool,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id, for a tracer.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What it and its children take now.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid)
    }

    /// What it has logged until now.
    pub fn log(&self) -> Result<String> {
        contents(&self.log)
    }

    /// Sends a signal to the server alone, as `kill(1)` does.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("cannot send {signal:?}"))
    }

    /// Runs `meanwhile` while the server and its children are stopped.
    pub fn while_stopped<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
        kill_process_group(self.pid, Signal::STOP)?;
        let stopped = wait_until("the server stopping", TIMEOUT, || {
            Ok(usage::all_stopped(self.pid)?.then_some(()))
        });
        let result = stopped.and_then(|()| meanwhile());
        kill_process_group(self.pid, Signal::CONT)?;
        result
    }

    /// Whether it is the program itself already, and no shell or Cargo that starts it.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid.as_raw_nonzero()));
        program.is_ok_and(|path| path.file_name().is_some_and(|name| name == &*self.name))
    }

    /// Whether every thread of it and its children sleeps, until something happens.
    pub fn is_asleep(&self) -> Result<bool> {
        usage::all_asleep(self.pid)
    }

    /// The numbers below `limit` that are free for new descriptors of the server, in order.
    pub fn free_descriptors(&self, limit: u64) -> Result<Vec<u64>> {
        let open = usage::open_descriptors(self.pid)?;
        Ok((0..limit).filter(|number| !open.contains(number)).collect())
    }

    /// Sets the soft `RLIMIT_NOFILE` of the server while it runs; returns what it was.
    pub fn set_fd_limit(&self, limit: Option<u64>) -> Result<Option<u64>> {
        let file = procfs::process::Process::new(self.pid.as_raw_nonzero().get())?;
        let maximum = match file.limits()?.max_open_files.hard_limit {
            procfs::process::LimitValue::Value(value) => Some(value),
            procfs::process::LimitValue::Unlimited => None,
        };
        let new = Rlimit { current: limit, maximum };
        Ok(prlimit(Some(self.pid), Resource::Nofile, new)?.current)
    }

    /// Waits until the server ends; how, and after what time.
    pub fn wait(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        let timeout = Timespec::try_from(limit)?;
        let count = poll(&mut ended, Some(&timeout))?;
        ensure!(count == 1, "the server has not ended in {} s", limit.as_secs());
        let time = start.elapsed();
        self.ended = true;
        Ok((self.child.wait()?, time))
    }

    /// Waits until no process of the server's is left; [`Running::wait`] comes first.
    pub fn wait_for_children(&self, limit: Duration) -> Result<()> {
        wait_until("the last child of the server ending", limit, || {
            // Whoever adopts an orphan that has ended may take its time to notice.
            Ok((self.usage()?.processes == 0).then_some(()))
        })
    }

    /// The result of a case that it has served. It must still be alive, unless the case has seen
    /// it end, and must not have panicked; and after an error come the last lines of its log.
    pub fn check_result(&mut self, result: Result<()>) -> Result<()> {
        result.and_then(|()| self.check_health()).map_err(|error| {
            // One that ends closes its connections first, and is seen to have ended later.
            let ended = self.wait(Duration::from_millis(300)).ok();
            let ended = ended.map(|(status, _)| format!("\nThe server has ended: {status}"));
            anyhow!("{error:#}{}\n{}", ended.unwrap_or_default(), self.log_tail())
        })
    }

    fn check_health(&self) -> Result<()> {
        if !self.ended {
            self.check_alive()?;
        }
        let log = self.log()?;
        ensure!(!log.contains("panicked"), "the server has panicked");
        Ok(())
    }

    /// Whether it has ended. It stays a zombie until [`Server::wait`].
    pub fn has_ended(&self) -> Result<bool> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        Ok(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
    }

    fn check_alive(&self) -> Result<()> {
        ensure!(!self.has_ended()?, "the server has ended");
        Ok(())
    }

    fn first_line(&mut self) -> Result<String> {
        let start = Instant::now();
        let stdout = self.child.stdout.as_mut().context("stdout is not a pipe")?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let left = TIMEOUT.saturating_sub(start.elapsed());
            let timeout = Timespec::try_from(left)?;
            let count = poll(&mut [PollFd::new(&*stdout, PollFlags::IN)], Some(&timeout))?;
            ensure!(count == 1, "no line on stdout within {} s", TIMEOUT.as_secs());
            let mut byte = [0];
            if stdout.read(&mut byte)? == 0 {
                bail!("the server closed its stdout before it said that it listens");
            }
            line.extend(byte);
        }
        Ok(String::from_utf8(line)?)
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(10)..];
        format!("The log of {} ends:\n    {}", self.name, tail.join("\n    "))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail where the server has ended, and then there is nothing to do.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The whole file, without moving the position that the server writes at.
fn contents(file: &File) -> Result<String> {
    let length = usize::try_from(file.metadata()?.len())?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
