//! Starts a server ([`Launch`]), observes it, and ends it ([`Server`]).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::SigSet;
use procfs::process::FDTarget;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io_uring::{IoringSetupFlags, io_uring_params, io_uring_setup};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process,
    kill_process_group, pidfd_getfd, pidfd_open, prlimit, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe,
};
use seccompiler::BpfProgram;
use socket2::{Domain, Socket, Type};

use crate::capture::Capture;
use crate::conversation::server_event;
use crate::probe::Probe;
use crate::target::Properties;
use crate::wait::{TIMEOUT, seconds, timeout, wait_until};
use crate::{Usage, binaries, guard, sockets, usage};

/// Why this machine has no `io_uring` for the servers, if so. It asks the kernel for the same
/// features as the servers.
#[must_use]
pub fn no_io_uring() -> Option<&'static str> {
    let mut options = io_uring_params::default();
    options.flags = IoringSetupFlags::SINGLE_ISSUER | IoringSetupFlags::DEFER_TASKRUN;
    // SAFETY: no flag is set that makes the kernel use memory of this process.
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
    probe: Probe,
    backlog: usize,
    readiness: Readiness,
    environment: Vec<(&'static str, OsString)>,
    limits: Vec<Limit>,
    /// Signals that are blocked when the program starts.
    blocked: Vec<Signal>,
    /// Makes system calls fail.
    filter: Option<BpfProgram>,
    /// The user to become.
    user: Option<u32>,
    /// File descriptors below this number are open when the program starts.
    inherited_below: Option<RawFd>,
    stderr: Option<OwnedFd>,
    /// A file that replaces `/etc/resolv.conf`.
    resolver: Option<tempfile::NamedTempFile>,
}

/// A resource limit of the server: soft only, or soft and hard.
#[derive(Clone, Copy, Debug)]
struct Limit {
    resource: Resource,
    value: u64,
    soft_only: bool,
}

/// How a server shows that it listens.
#[derive(Clone, Copy, Debug)]
pub enum Readiness {
    /// It prints `NAME listening on ADDRESS`.
    Announces,
    /// A socket of this machine listens on the address.
    Listens(SocketAddr),
    /// It is a server that runs already, and was not started here.
    Runs(SocketAddr),
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
            probe: Probe::echo(),
            backlog: Properties::DEFAULT.backlog,
            readiness: Readiness::Announces,
            environment: Vec::new(),
            limits: Vec::new(),
            blocked: Vec::new(),
            filter: None,
            user: None,
            inherited_below: None,
            stderr: None,
            resolver: None,
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

    /// Says how the server shows that it listens.
    #[must_use]
    pub fn readiness(self, readiness: Readiness) -> Self {
        Self { readiness, ..self }
    }

    /// Says how the clients talk to the server.
    #[must_use]
    pub fn probe(self, probe: Probe) -> Self {
        Self { probe, ..self }
    }

    /// Says how many connections wait in the kernel for `accept`.
    #[must_use]
    pub fn backlog(self, backlog: usize) -> Self {
        Self { backlog, ..self }
    }

    /// Sets `RUST_LOG`.
    #[must_use]
    pub fn log_level(self, level: &'static str) -> Self {
        self.environment("RUST_LOG", level)
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn environment(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Sets `RLIMIT_NOFILE`, soft and hard.
    #[must_use]
    pub fn fd_limit(self, value: u64) -> Self {
        self.limit(Resource::Nofile, value)
    }

    /// Sets the soft `RLIMIT_NOFILE`, which [`Server::set_fd_limit`] can raise again.
    #[must_use]
    pub fn soft_fd_limit(mut self, value: u64) -> Self {
        self.limits.push(Limit { resource: Resource::Nofile, value, soft_only: true });
        self
    }

    /// Sets `RLIMIT_SIGPENDING`, the number of signals that can be queued for this user.
    #[must_use]
    pub fn signal_queue_limit(self, value: u64) -> Self {
        self.limit(Resource::Sigpending, value)
    }

    /// Sets a resource limit, soft and hard.
    #[must_use]
    pub fn limit(mut self, resource: Resource, value: u64) -> Self {
        self.limits.push(Limit { resource, value, soft_only: false });
        self
    }

    /// Blocks this signal in the program, as a careless parent does.
    #[must_use]
    pub fn blocked(mut self, signal: Signal) -> Self {
        self.blocked.push(signal);
        self
    }

    /// Makes system calls of the program fail.
    #[must_use]
    pub fn filter(self, filter: BpfProgram) -> Self {
        Self { filter: Some(filter), ..self }
    }

    /// Starts the program as this user, which needs root.
    #[must_use]
    pub fn user(self, user: u32) -> Self {
        Self { user: Some(user), ..self }
    }

    /// Starts the program with all file descriptors below `number` open.
    #[must_use]
    pub fn inherited_below(self, number: RawFd) -> Self {
        Self { inherited_below: Some(number), ..self }
    }

    /// Gives the program this stderr. Its log can then not be read.
    #[must_use]
    pub fn stderr(self, stderr: OwnedFd) -> Self {
        Self { stderr: Some(stderr), ..self }
    }

    /// Starts the program with this `/etc/resolv.conf`, which needs root.
    pub fn resolver(self, configuration: &str) -> Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), configuration)?;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
        Ok(Self { resolver: Some(file), ..self })
    }

    /// Starts the server and runs `case` against it. See [`Server::check_result`].
    pub fn serve(self, case: impl FnOnce(&mut Server) -> Result<()>) -> Result<()> {
        let mut server = self.start()?;
        let result = case(&mut server);
        server.check_result(result)
    }

    /// Starts the server, and returns when it listens.
    pub fn start(mut self) -> Result<Server> {
        match self.readiness {
            Readiness::Runs(address) => {
                Ok(Server { process: None, address, probe: self.probe, backlog: self.backlog })
            }
            Readiness::Announces => {
                let name = self.name.clone();
                let log = Capture::File(tempfile::tempfile()?);
                let mut server = self.spawn_with(Stdio::piped(), log)?;
                let line = server.process_mut()?.first_line();
                let line = line.map_err(|error| anyhow!("{error:#}\n{}", server.log_tail()))?;
                let address = line.strip_prefix(&format!("{name} listening on "));
                let address = address.and_then(|address| address.trim_end().parse().ok());
                server.address =
                    address.with_context(|| format!("the first line on stdout is {line:?}"))?;
                server_event(&format!("listens on {}", server.address));
                Ok(server)
            }
            Readiness::Listens(address) => {
                let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                let stdout = Stdio::from(writer.try_clone()?);
                self.stderr.get_or_insert(writer);
                let mut server = self.spawn_with(stdout, Capture::pipe(reader)?)?;
                server.address = address;
                server.wait_until_it_listens()?;
                Ok(server)
            }
        }
    }

    /// Starts the server with this as its stdout, or with stdout closed, so that nobody can read
    /// what it announces.
    pub fn start_without_stdout(mut self, stdout: Option<OwnedFd>) -> Result<Server> {
        // The server cannot announce its port, so it gets one. This socket reserves the port until
        // the server listens on it: two sockets with SO_REUSEADDR can share a port while neither
        // of them listens.
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let address = match self.readiness {
            Readiness::Announces => {
                reserved.set_reuse_address(true)?;
                reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
                let address = reserved.local_addr()?.as_socket().context("not an IP address")?;
                if let Some(first) = self.arguments.first_mut() {
                    *first = address.to_string().into();
                }
                address
            }
            Readiness::Listens(address) | Readiness::Runs(address) => address,
        };
        let log = Capture::File(tempfile::tempfile()?);
        let mut server = if let Some(stdout) = stdout {
            self.spawn_with(stdout.into(), log)?
        } else {
            // Only a shell can start a program with a closed file descriptor. The standard library
            // opens /dev/null instead.
            let program = self.executable()?.into_os_string();
            let mut words = vec!["-c".into(), "exec \"$0\" \"$@\" >&-".into(), program];
            words.append(&mut self.arguments);
            self.arguments = words;
            self.program("/bin/sh").spawn_with(Stdio::null(), log)?
        };
        server.address = address;
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Starts a server that may end before it listens. Returns the server, or how it ended.
    pub fn start_or_output(mut self) -> Result<Result<Server, Output>> {
        let stdout = tempfile::tempfile()?;
        let announces = matches!(self.readiness, Readiness::Announces);
        let address = match self.readiness {
            Readiness::Listens(address) | Readiness::Runs(address) => Some(address),
            Readiness::Announces => None,
        };
        let (log, child_stdout) = if announces {
            (Capture::File(tempfile::tempfile()?), stdout.try_clone()?.into())
        } else {
            // Both in the log, as for a server that is served.
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let child_stdout = Stdio::from(writer.try_clone()?);
            self.stderr.get_or_insert(writer);
            (Capture::pipe(reader)?, child_stdout)
        };
        let mut server = self.spawn_with(child_stdout, log)?;
        let stdout = Capture::File(stdout);
        let outcome = wait_until("the server to listen or to end", timeout(), || {
            if server.has_ended()? {
                let status = server.wait(TIMEOUT)?.0;
                let output = Output { status, stdout: stdout.text()?, stderr: server.log()? };
                return Ok(Some(Err(output)));
            }
            if let Some(address) = address {
                return Ok(sockets::is_listening(address)?.then_some(Ok(address)));
            }
            let line = stdout.text()?;
            let last_word = line.strip_suffix('\n').and_then(|line| line.rsplit(' ').next());
            Ok(last_word.and_then(|word| word.parse().ok()).map(Ok))
        })?;
        Ok(outcome.map(|address| {
            server.address = address;
            server
        }))
    }

    /// Runs a program that ends by itself.
    pub fn output(self) -> Result<Output> {
        self.output_within(timeout())
    }

    /// The same, for a program that takes up to `limit`.
    pub fn output_within(self, limit: Duration) -> Result<Output> {
        let stdout = tempfile::tempfile()?;
        let stdout_for_child = stdout.try_clone()?.into();
        let mut server = self.spawn_with(stdout_for_child, Capture::File(tempfile::tempfile()?))?;
        let status = server.wait(limit).context("the program has not ended")?.0;
        Ok(Output { status, stdout: Capture::File(stdout).text()?, stderr: server.log()? })
    }

    /// Starts the program and waits for nothing. Its stdout and stderr are both in its log, as a
    /// reader sees both on the terminal.
    pub fn spawn(self) -> Result<Server> {
        let log = tempfile::tempfile()?;
        self.spawn_with(log.try_clone()?.into(), Capture::File(log))
    }

    fn executable(&self) -> Result<PathBuf> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => Ok(binaries::path(&self.name)?.to_owned()),
        }
    }

    fn spawn_with(self, stdout: Stdio, log: Capture) -> Result<Server> {
        let mut command = Command::new(self.executable()?);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(stdout);
        let stderr = match (self.stderr, &log) {
            (Some(stderr), _) => Stdio::from(stderr),
            (None, Capture::File(file)) => Stdio::from(file.try_clone()?),
            (None, Capture::Pipe(_)) => Stdio::null(),
        };
        command.stderr(stderr).env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
        command.envs(self.environment);
        // Its children are in its process group too, so SIGSTOP and SIGKILL reach all of them.
        command.process_group(0);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let may_leave_strays = matches!(self.readiness, Readiness::Listens(_));
        let limits = self.limits;
        let mut blocked = SigSet::empty();
        for signal in self.blocked {
            blocked.add(nix::sys::signal::Signal::try_from(signal.as_raw())?);
        }
        let (filter, inherited_below) = (self.filter, self.inherited_below);
        let resolver = self.resolver.as_ref().map(|file| file.path().to_owned());
        let before_exec = move || {
            // The kernel kills the server when the thread ends that has started it, however that
            // happens.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            if may_leave_strays {
                // A server that runs as root could raise the limits again. It fails if this process
                // is not root, and then there is nothing to take away.
                let capability = CapabilitySet::SYS_RESOURCE;
                let _ = remove_capability_from_bounding_set(capability);
            }
            for limit in &limits {
                let hard = getrlimit(limit.resource).maximum;
                let maximum = if limit.soft_only { hard } else { Some(limit.value) };
                setrlimit(limit.resource, Rlimit { current: Some(limit.value), maximum })?;
            }
            if let Some(resolver) = &resolver {
                // SAFETY: only this process gets another view of the file system.
                unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
                mount_bind(resolver, "/etc/resolv.conf")?;
            }
            blocked.thread_block()?;
            while let Some(number) = inherited_below {
                let copy = rustix::io::dup(rustix::stdio::stdin())?;
                let last = copy.as_raw_fd();
                mem::forget(copy); // it stays open in the program
                if last + 1 >= number {
                    break;
                }
            }
            if let Some(filter) = &filter {
                seccompiler::apply_filter(filter).map_err(|_| io::ErrorKind::Unsupported)?;
            }
            Ok(())
        };
        // SAFETY: the closure only makes system calls. It takes no lock and allocates nothing.
        unsafe { command.pre_exec(before_exec) };
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let pid = Pid::from_child(&child);
        guard::add(pid);
        server_event(&format!("started: {command:?}"));
        let process = Process { name: self.name, child, pid, log, ended: false, may_leave_strays };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Server { process: Some(process), address, probe: self.probe, backlog: self.backlog })
    }
}

/// A program that has ended by itself.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A running server. Dropping it kills it and all its children.
#[derive(Debug)]
pub struct Server {
    /// `None`: the server was not started here.
    process: Option<Process>,
    address: SocketAddr,
    probe: Probe,
    backlog: usize,
}

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: Capture,
    /// Whether the case has waited for its end.
    ended: bool,
    /// Whether it may put itself into the background.
    may_leave_strays: bool,
}

impl Server {
    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the clients talk to it.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Whether it is a server of this workspace, and not the reader's command.
    #[must_use]
    pub fn is_of_workspace(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.may_leave_strays)
    }

    /// How many clients may connect at once before they have to wait.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the case needs a server that it has started itself")
    }

    fn process_mut(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the case needs a server that it has started itself")
    }

    /// Its process.
    pub fn pid(&self) -> Result<Pid> {
        Ok(self.process()?.pid)
    }

    /// What it and its children use now.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid()?)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        self.process()?.log.text()
    }

    /// Whether it has ended. It stays a zombie until [`Server::wait`].
    pub fn has_ended(&self) -> Result<bool> {
        self.process()?.has_ended()
    }

    /// Sends a signal to the server alone, as kill(1) does.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        server_event(&format!("is sent {}", signal_name(signal)));
        kill_process(self.pid()?, signal)
            .with_context(|| format!("cannot send {}", signal_name(signal)))
    }

    /// Stops the server and its children, runs `action`, and continues them.
    pub fn while_stopped<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let pid = self.pid()?;
        server_event("is stopped (SIGSTOP)");
        kill_process_group(pid, Signal::STOP)?;
        let stopped = wait_until("SIGSTOP to stop the server", TIMEOUT, || {
            Ok(usage::all_stopped(pid)?.then_some(()))
        });
        let result = stopped.and_then(|()| action());
        kill_process_group(pid, Signal::CONT)?;
        server_event("continues (SIGCONT)");
        result
    }

    /// Whether it is the program itself already, and not the shell or Cargo that starts it.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let program = fs::read_link(format!("/proc/{}/exe", process.pid.as_raw_nonzero()));
        program.is_ok_and(|path| path.file_name().is_some_and(|name| name == &*process.name))
    }

    /// Whether every thread of it and its children sleeps in a system call.
    pub fn is_asleep(&self) -> Result<bool> {
        usage::all_asleep(self.pid()?)
    }

    /// The numbers below `limit` that are free for new file descriptors of the server, in order.
    pub fn free_descriptors(&self, limit: u64) -> Result<Vec<u64>> {
        let open = usage::open_descriptors(self.pid()?)?;
        Ok((0..limit).filter(|number| !open.contains(number)).collect())
    }

    /// The limit under which each process of the server can open at least `count` more file
    /// descriptors.
    pub fn fd_limit_for(&self, count: usize) -> Result<u64> {
        let mut limit = 0;
        for process in usage::group(self.pid()?)? {
            let Some(pid) = Pid::from_raw(process.pid()) else { continue };
            let open = usage::open_descriptors(pid).unwrap_or_default();
            // It may have inherited some with high numbers.
            let mut free = (0..).filter(|number| !open.contains(number));
            limit = limit.max(free.nth(count).unwrap_or_default());
        }
        Ok(limit)
    }

    /// Sets the soft `RLIMIT_NOFILE` of the running server. Returns the previous limit.
    pub fn set_fd_limit(&self, limit: Option<u64>) -> Result<Option<u64>> {
        self.set_limit(Resource::Nofile, limit)
    }

    /// Sets a soft resource limit of the running server and its children. Returns the previous limit
    /// of the server.
    pub fn set_limit(&self, resource: Resource, limit: Option<u64>) -> Result<Option<u64>> {
        let pid = self.pid()?;
        // prlimit sets both limits, so keep the hard one.
        let limits = procfs::process::Process::new(pid.as_raw_nonzero().get())?.limits()?;
        let hard = match resource {
            Resource::Nofile => limits.max_open_files.hard_limit,
            Resource::As => limits.max_address_space.hard_limit,
            _ => bail!("no case sets {resource:?}"),
        };
        let hard = match hard {
            procfs::process::LimitValue::Value(value) => Some(value),
            procfs::process::LimitValue::Unlimited => None,
        };
        let limit = || Rlimit { current: limit, maximum: hard };
        for child in usage::children(pid)? {
            let _ = prlimit(Pid::from_raw(child.pid()), resource, limit()); // it may have ended
        }
        Ok(prlimit(Some(pid), resource, limit())?.current)
    }

    /// Bytes of its address space.
    pub fn address_space(&self) -> Result<u64> {
        let process = procfs::process::Process::new(self.pid()?.as_raw_nonzero().get())?;
        Ok(process.stat()?.vsize)
    }

    /// Duplicates the server's socket of the connection with this client into this process.
    ///
    /// It can then change the options of the socket, because they belong to the open file
    /// description, which both file descriptors share.
    pub fn duplicate_socket(&self, client: SocketAddr) -> Result<OwnedFd> {
        let socket = sockets::server_side(client, self.address)?;
        let inode = socket.context("the server has no socket for the client")?.inode;
        let link = format!("socket:[{inode}]");
        for process in usage::group(self.pid()?)? {
            let folder = format!("/proc/{}/fd", process.pid());
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries.flatten() {
                let is_it = fs::read_link(entry.path()).is_ok_and(|it| it.as_os_str() == &*link);
                let number = entry.file_name().into_string().unwrap_or_default().parse::<RawFd>();
                if let (true, Ok(number), Some(pid)) = (is_it, number, Pid::from_raw(process.pid()))
                {
                    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
                    return pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
                        .context("cannot duplicate the server's socket (pidfd_getfd)");
                }
            }
        }
        bail!("no process of the server has the client's socket open")
    }

    /// Waits until the server ends. Returns how, and after what time.
    pub fn wait(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        let process = self.process_mut()?;
        ensure!(
            process.wait(limit)?,
            "the server has not ended after {}, and was killed",
            seconds(limit)
        );
        let time = start.elapsed();
        process.ended = true;
        let status = process.child.wait()?;
        server_event(&format!("has ended: {status}"));
        Ok((status, time))
    }

    /// Waits until the server has no more processes. Call [`Server::wait`] first.
    pub fn wait_for_children(&self, limit: Duration) -> Result<()> {
        wait_until("the last child of the server to end", limit, || {
            // The process that adopts an orphan may need some time to reap it.
            Ok((self.usage()?.processes == 0).then_some(()))
        })
    }

    /// Returns the result of a case that the server has served.
    ///
    /// It becomes an error if the server has ended, unless the case has waited for that, or if a
    /// thread of it has panicked. The last lines of the server's log are added to an error.
    pub fn check_result(&mut self, result: Result<()>) -> Result<()> {
        if self.process.is_none() {
            return result;
        }
        result.and_then(|()| self.check_health()).map_err(|error| {
            // A server that ends closes its connections first, and its end is visible later.
            let ended = self.wait(Duration::from_millis(300)).ok();
            let ended = ended.map(|(status, _)| format!("\nThe server has ended: {status}"));
            let killed = self.pid().ok().and_then(guard::verdict);
            let killed = killed.map(|reason| format!("\nThe server was {reason}"));
            anyhow!(
                "{error:#}{}{}\n{}",
                killed.unwrap_or_default(),
                ended.unwrap_or_default(),
                self.log_tail()
            )
        })
    }

    fn check_health(&mut self) -> Result<()> {
        let process = self.process_mut()?;
        if !process.ended {
            process.check_alive()?;
        }
        if matches!(process.log, Capture::File(_)) {
            ensure!(!process.log.text()?.contains("panicked"), "the server has panicked");
        }
        Ok(())
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let address = self.address;
        let what = format!("the server to listen on {address}");
        let result = wait_until(&what, timeout().max(TIMEOUT / 2), || {
            let listens = sockets::is_listening(address)?;
            let process = self.process_mut()?;
            if !process.has_ended()? {
                return Ok(listens.then_some(()));
            }
            let status = process.child.wait()?;
            process.ended = true;
            if status.success() {
                // If it is in the background now, it may listen a little later.
                let soon = Duration::from_secs(1);
                let background = wait_until("the server in the background", soon, || {
                    Ok(sockets::is_listening(address)?.then_some(()))
                });
                ensure!(background.is_err(), in_the_background(address));
            }
            bail!("the server has ended before it listened on {address}: {status}");
        });
        result.map_err(|error| {
            let mut message = format!("{error:#}");
            for other in self.listens_on().unwrap_or_default() {
                message += &format!("\nIt listens on {other} instead.");
            }
            anyhow!("{message}\n{}", self.log_tail())
        })?;
        server_event(&format!("listens on {address}"));
        Ok(())
    }

    /// The addresses on which its processes listen.
    fn listens_on(&self) -> Result<Vec<SocketAddr>> {
        let mut own = Vec::new();
        for process in usage::group(self.pid()?)? {
            for descriptor in process.fd()?.flatten() {
                if let FDTarget::Socket(inode) = descriptor.target {
                    own.push(inode);
                }
            }
        }
        let mut listeners = sockets::listening()?;
        listeners.retain(|socket| own.contains(&socket.inode));
        Ok(listeners.into_iter().map(|socket| socket.local).collect())
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        const LINES: usize = 10;
        let log = self.log().unwrap_or_default();
        let mut tail = VecDeque::new();
        for line in log.lines() {
            tail.push_back(line);
            if tail.len() > LINES {
                tail.pop_front();
            }
        }
        let name = self.process.as_ref().map_or("the server", |process| &process.name);
        if tail.is_empty() {
            return format!("{name} has logged nothing");
        }
        let tail: Vec<_> = tail.into_iter().collect();
        format!("The log of {name} ends:\n    {}", tail.join("\n    "))
    }
}

/// A daemon calls fork and setsid, and its parent ends (daemon(3)).
fn in_the_background(address: SocketAddr) -> String {
    format!(
        "the command has ended, but something listens on {address}: it has put the server into \
         the background. Start the server in the foreground, so that it can be observed and stopped"
    )
}

impl Process {
    /// Waits until the process ends. Returns whether it does within `limit`.
    fn wait(&self, limit: Duration) -> Result<bool> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        Ok(poll(&mut ended, Some(&Timespec::try_from(limit)?))? == 1)
    }

    fn has_ended(&self) -> Result<bool> {
        self.wait(Duration::ZERO)
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
            let count = wait_for_input(stdout, left)?;
            ensure!(count == 1, "no line on stdout within {}", seconds(TIMEOUT));
            let mut byte = [0];
            if stdout.read(&mut byte)? == 0 {
                bail!("the server has closed its stdout before it announced its address");
            }
            line.extend(byte);
        }
        Ok(String::from_utf8(line)?)
    }
}

fn wait_for_input(stdout: &ChildStdout, limit: Duration) -> Result<usize> {
    let mut input = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
    Ok(poll(&mut input, Some(&Timespec::try_from(limit)?))?)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the server has ended, and then there is nothing to do.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
        guard::remove(self.pid);
        if self.may_leave_strays {
            guard::kill_strays();
        }
    }
}

/// `SIGTERM`.
#[must_use]
pub fn signal_name(signal: Signal) -> String {
    let name = nix::sys::signal::Signal::try_from(signal.as_raw());
    name.map_or_else(|_| format!("signal {}", signal.as_raw()), |name| name.as_str().to_owned())
}

/// Opens a pipe that is full. Returns the write end for the server, and the read end, which nobody
/// reads and which must stay open.
pub fn full_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK)?;
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b".").is_ok() {}
    // The flag belongs to the open file description, which the server will share.
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty())?;
    Ok((writer, reader))
}
