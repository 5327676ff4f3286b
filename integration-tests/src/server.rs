//! What a server is, how it is started, and the guard that it runs under.

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

use crate::wait::{PATIENCE, until};
use crate::{Client, Figures, binaries, figures, guest};

/// A server, with the properties that decide which tests apply to it.
///
/// With [`ECHO`] a line of the table names only what sets a server apart.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// The package that builds it.
    pub package: &'static str,
    /// The name of its binary.
    pub name: &'static str,
    /// Its second argument.
    pub argument: Option<&'static str>,
    /// How many clients it serves at the same time; the others wait in the backlog.
    pub at_once: usize,
    /// Whether it has one socket for all clients, and no connections.
    pub shares_socket: bool,
    /// Descriptors from this number on are refused.
    pub highest_descriptor: Option<u64>,
    /// Clients beyond so many are refused.
    pub most_clients: Option<usize>,
    /// Descriptors that one client takes of the process that accepts.
    pub descriptors_per_client: usize,
    /// The argument with which it does not use a core all the time.
    pub calm_argument: Option<&'static str>,
    /// Bytes of memory that an idle client may cost; no bound where a thread or a process waits
    /// for it, on a stack of its own.
    pub idle_memory: Option<u64>,
    /// How many idle clients the tests burden it with.
    pub idle_clients: usize,
    /// Whether signals tell it of its sockets.
    pub is_told_by_signals: bool,
    /// What it has to refuse as its second argument.
    pub bad_arguments: &'static [&'static str],
    /// What it needs and this machine lacks, if anything.
    pub lacks: fn() -> Option<&'static str>,
    /// What a new client does to know that it is served.
    pub greet: fn(&Client) -> Result<()>,
    /// Where it listens unless it is told.
    pub default_address: &'static str,
}

/// A server that serves everybody at the same time, one descriptor each, takes no second
/// argument, and costs nothing where nothing happens.
pub const ECHO: Server = Server {
    package: "",
    name: "",
    argument: None,
    at_once: usize::MAX,
    shares_socket: false,
    highest_descriptor: None,
    most_clients: None,
    descriptors_per_client: 1,
    calm_argument: None,
    idle_memory: None,
    idle_clients: 1000,
    is_told_by_signals: false,
    bad_arguments: &[],
    lacks: || None,
    greet: |client| client.echo(b"hello"),
    default_address: "127.0.0.1:7000",
};

/// A chat server.
pub const CHAT: Server = Server {
    argument: Some("300"),
    bad_arguments: &["-1", "x", "", "1.5", "4294967296"],
    greet: |client| guest::welcome(client).map(drop),
    default_address: "127.0.0.1:7001",
    ..ECHO
};

impl Server {
    /// Whether a client is served while another one is.
    #[must_use]
    pub fn is_concurrent(&self) -> bool {
        self.at_once > 1
    }

    /// The same server, made not to use a core all the time.
    #[must_use]
    pub fn calm(&self) -> Self {
        Self { argument: self.calm_argument.or(self.argument), ..*self }
    }

    /// Ready to start on a free port of `127.0.0.1`, with its usual second argument.
    #[must_use]
    pub fn launch(&self) -> Launch {
        let mut arguments = vec![OsString::from("127.0.0.1:0")];
        arguments.extend(self.argument.map(OsString::from));
        self.launch_with(arguments)
    }

    /// Ready to start with exactly these arguments.
    #[must_use]
    pub fn launch_with<A: Into<OsString>>(&self, arguments: impl IntoIterator<Item = A>) -> Launch {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Launch {
            name: self.name,
            program: None,
            arguments,
            log: None,
            descriptors: None,
            soft: false,
            queued_signals: None,
        }
    }
}

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
    name: &'static str,
    /// Where it is, if it is not among the binaries that were built.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    log: Option<&'static str>,
    descriptors: Option<u64>,
    soft: bool,
    queued_signals: Option<u64>,
}

impl Launch {
    /// The program `name` as a reader starts it, with a line of shell.
    ///
    /// Cargo, where it is in the line, says nothing but errors, and becomes the program.
    #[must_use]
    pub fn typed(name: &'static str, line: &str) -> Self {
        let line = format!("CARGO_TERM_QUIET=true {line}");
        Server { name, ..ECHO }.launch_with(["-c", &line]).of("bash")
    }

    /// With this program in place of the binary that was built.
    #[must_use]
    pub fn of(self, program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), ..self }
    }

    /// With `RUST_LOG` set.
    #[must_use]
    pub fn log(self, level: &'static str) -> Self {
        Self { log: Some(level), ..self }
    }

    /// With `RLIMIT_NOFILE` set, soft and hard.
    #[must_use]
    pub fn descriptors(self, limit: u64) -> Self {
        Self { descriptors: Some(limit), ..self }
    }

    /// With the soft `RLIMIT_NOFILE` set: [`Running::limit_descriptors`] can raise it.
    #[must_use]
    pub fn soft_descriptors(self, limit: u64) -> Self {
        Self { descriptors: Some(limit), soft: true, ..self }
    }

    /// With `RLIMIT_SIGPENDING` set: how many signals of the user's can be queued.
    #[must_use]
    pub fn queued_signals(self, limit: u64) -> Self {
        Self { queued_signals: Some(limit), ..self }
    }

    /// Runs `case` against the server, which has to survive it: see [`Running::judge`].
    pub fn serve(self, case: impl FnOnce(&mut Running) -> Result<()>) -> Result<()> {
        let mut running = self.start()?;
        let result = case(&mut running);
        running.judge(result)
    }

    /// Starts the server, and returns when it listens.
    pub fn start(self) -> Result<Running> {
        let name = self.name;
        let mut running = self.spawn(Stdio::piped())?;
        let line = running.first_line();
        let line = line.map_err(|error| anyhow!("{error:#}\n{}", running.last_words()))?;
        let address = line.strip_prefix(&format!("{name} listening on "));
        let address = address.and_then(|address| address.trim_end().parse().ok());
        running.address =
            address.with_context(|| format!("the first line on stdout is {line:?}"))?;
        Ok(running)
    }

    /// Starts the server with this as its stdout, where nobody can read that it listens; or with
    /// none at all.
    pub fn start_unheard(mut self, stdout: Option<OwnedFd>) -> Result<Running> {
        // As it cannot tell its port it gets one, which is ours until it listens on it: the
        // kernel lets two sockets that both say SO_REUSEADDR have it while neither listens.
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        reserved.set_reuse_address(true)?;
        reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = reserved.local_addr()?.as_socket().context("not an IP address")?;
        if let Some(first) = self.arguments.first_mut() {
            *first = address.to_string().into();
        }

        let mut running = match stdout {
            Some(stdout) => self.spawn(stdout.into())?,
            None => self.spawn_through_shell()?,
        };
        running.address = address;
        until("the server listening", PATIENCE, || {
            running.check_alive()?;
            Ok(TcpStream::connect(address).ok())
        })
        .map_err(|error| anyhow!("{error:#}\n{}", running.last_words()))?;
        Ok(running)
    }

    /// Runs the server where it ends by itself.
    pub fn output(self) -> Result<Output> {
        self.output_within(PATIENCE)
    }

    /// The same, where that may take so long.
    pub fn output_within(self, limit: Duration) -> Result<Output> {
        let stdout = tempfile::tempfile()?;
        let mut running = self.spawn(stdout.try_clone()?.into())?;
        let status = running.wait(limit).context("it ran on")?.0;
        Ok(Output { status, stdout: contents(&stdout)?, stderr: running.log()? })
    }

    /// Starts it, and waits for nothing. What it writes to stdout comes into its log, as both are
    /// on the screen of a reader.
    pub fn begin(self) -> Result<Running> {
        let log = tempfile::tempfile()?;
        self.spawn_into(log.try_clone()?.into(), log)
    }

    fn spawn(self, stdout: Stdio) -> Result<Running> {
        // A file takes any amount of log, and nobody has to read it meanwhile.
        self.spawn_into(stdout, tempfile::tempfile()?)
    }

    fn spawn_into(self, stdout: Stdio, log: File) -> Result<Running> {
        let mut command = match &self.program {
            Some(program) => Command::new(program),
            None => Command::new(binaries::path(self.name)?),
        };
        command.args(&self.arguments);
        self.spawn_command(command, stdout, log)
    }

    /// Only a shell can start a program with a descriptor closed; std puts something there.
    fn spawn_through_shell(self) -> Result<Running> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" >&-"]);
        command.arg(binaries::path(self.name)?).args(&self.arguments);
        self.spawn_command(command, Stdio::null(), tempfile::tempfile()?)
    }

    fn spawn_command(self, mut command: Command, stdout: Stdio, log: File) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(stdout).stderr(log.try_clone()?);
        command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        command.envs(self.log.map(|level| ("RUST_LOG", level)));
        // A group of its own, which its children are in too: SIGSTOP and SIGKILL reach all.
        command.process_group(0);
        let hard = if self.soft { getrlimit(Resource::Nofile).maximum } else { self.descriptors };
        let limits = [
            (Resource::Nofile, self.descriptors, hard),
            (Resource::Sigpending, self.queued_signals, self.queued_signals),
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
        Ok(Running { name: self.name, child, pid, log, address, ended: false })
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
pub struct Running {
    name: &'static str,
    child: Child,
    pid: Pid,
    log: File,
    address: SocketAddr,
    ended: bool,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it and its children take now.
    pub fn figures(&self) -> Result<Figures> {
        Figures::of(self.pid)
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
    pub fn paused<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
        kill_process_group(self.pid, Signal::STOP)?;
        let stopped = until("the server stopping", PATIENCE, || {
            Ok(figures::all_stopped(self.pid)?.then_some(()))
        });
        let result = stopped.and_then(|()| meanwhile());
        kill_process_group(self.pid, Signal::CONT)?;
        result
    }

    /// Whether it is the program itself already, and no shell or Cargo that starts it.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid.as_raw_nonzero()));
        program.is_ok_and(|path| path.file_name().is_some_and(|name| name == self.name))
    }

    /// Whether every thread of it and its children sleeps, until something happens.
    pub fn is_asleep(&self) -> Result<bool> {
        figures::all_asleep(self.pid)
    }

    /// The numbers below `limit` that are free for new descriptors of the server, in order.
    pub fn free_descriptors(&self, limit: u64) -> Result<Vec<u64>> {
        let open = figures::open_descriptors(self.pid)?;
        Ok((0..limit).filter(|number| !open.contains(number)).collect())
    }

    /// Sets the soft `RLIMIT_NOFILE` of the server while it runs; returns what it was.
    pub fn limit_descriptors(&self, limit: Option<u64>) -> Result<Option<u64>> {
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
        until("the last child of the server ending", limit, || {
            // Whoever adopts an orphan that has ended may take its time to notice.
            Ok((self.figures()?.processes == 0).then_some(()))
        })
    }

    /// The result of a case that it has served. It must still be alive, unless the case has seen
    /// it end, and must not have panicked; and after an error come the last lines of its log.
    pub fn judge(&mut self, result: Result<()>) -> Result<()> {
        result.and_then(|()| self.check_health()).map_err(|error| {
            // One that ends closes its connections first, and is seen to have ended later.
            let ended = self.wait(Duration::from_millis(300)).ok();
            let ended = ended.map(|(status, _)| format!("\nThe server has ended: {status}"));
            anyhow!("{error:#}{}\n{}", ended.unwrap_or_default(), self.last_words())
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

    fn check_alive(&self) -> Result<()> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        let count = poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        ensure!(count == 0, "the server has ended");
        Ok(())
    }

    fn first_line(&mut self) -> Result<String> {
        let start = Instant::now();
        let stdout = self.child.stdout.as_mut().context("stdout is not a pipe")?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let timeout = Timespec::try_from(left)?;
            let count = poll(&mut [PollFd::new(&*stdout, PollFlags::IN)], Some(&timeout))?;
            ensure!(count == 1, "no line on stdout within {} s", PATIENCE.as_secs());
            let mut byte = [0];
            if stdout.read(&mut byte)? == 0 {
                bail!("the server closed its stdout before it said that it listens");
            }
            line.extend(byte);
        }
        Ok(String::from_utf8(line)?)
    }

    fn last_words(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(10)..];
        format!("The log of {} ends:\n    {}", self.name, tail.join("\n    "))
    }
}

impl Drop for Running {
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
