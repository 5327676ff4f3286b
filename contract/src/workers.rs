//! The workers of a server: event loops in threads, or processes. Which of them serves a client, and
//! what happens if one of them is stopped, both seen from outside.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use procfs::process::Process;

use crate::wait::{timeout, wait_until};
use crate::{Client, Server, sockets, usage};

/// Where a connection is served: in a process, and there in an event loop if the process has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worker {
    process: i32,
    /// The file descriptor of the epoll instance that contains the socket.
    epoll: Option<i32>,
}

/// A server with several workers.
#[derive(Debug)]
pub struct Workers<'a> {
    server: &'a Server,
    processes: Vec<Process>,
    /// The thread or process of each worker.
    threads: Vec<Pid>,
}

impl<'a> Workers<'a> {
    /// The workers that the server has now: its child processes, or the threads that are named
    /// `loop`, or all threads but the main one.
    pub fn of(server: &'a Server) -> Result<Self> {
        let leader = server.pid()?.as_raw_nonzero().get();
        let processes = usage::group(server.pid()?)?;
        let mut threads = Vec::new();
        for process in processes.iter().filter(|process| process.pid() != leader) {
            threads.push((process.pid(), String::new()));
        }
        if threads.is_empty() {
            for task in processes.iter().flat_map(Process::tasks).flatten().flatten() {
                let name = task.stat().map(|stat| stat.comm).unwrap_or_default();
                threads.push((task.tid, name));
            }
            threads.retain(|(id, _)| *id != leader);
            if threads.iter().any(|(_, name)| name.starts_with("loop")) {
                threads.retain(|(_, name)| name.starts_with("loop"));
            }
        }
        let threads = threads.into_iter().map(|(id, _)| Pid::from_raw(id)).collect();
        Ok(Self { server, processes, threads })
    }

    /// The thread or process of each worker.
    #[must_use]
    pub fn threads(&self) -> &[Pid] {
        &self.threads
    }

    /// How many workers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Waits until every thread of the server sleeps in a system call.
    pub fn wait_until_idle(&self) -> Result<()> {
        wait_until("all threads of the server to sleep", timeout(), || {
            let tasks = self.processes.iter().flat_map(Process::tasks).flatten().flatten();
            let mut states = tasks.filter_map(|task| task.stat().ok()).map(|stat| stat.state);
            Ok(states.all(|state| state == 'S').then_some(()))
        })
    }

    /// Connects a client while no worker is busy, and makes sure that the server serves it.
    pub fn connect(&self, seed: u64) -> Result<Client> {
        self.wait_until_idle()?;
        let client = Client::connect(self.server)?;
        client.exchange(seed)?;
        Ok(client)
    }

    /// Which worker serves each of these clients.
    pub fn serving(&self, clients: &[Client]) -> Result<Vec<Worker>> {
        let mut workers = BTreeMap::new();
        for process in self.processes.iter().map(Process::pid) {
            let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
            let mut loops = Vec::new();
            for entry in entries.flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                let target = target.to_string_lossy();
                let fd = entry.file_name().to_string_lossy().parse().unwrap_or_default();
                let socket = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
                if let Some(inode) = socket.and_then(|inode| inode.parse::<u64>().ok()) {
                    workers.insert(inode, Worker { process, epoll: None });
                } else if target.ends_with("[eventpoll]") {
                    loops.push(fd);
                }
            }
            for fd in loops {
                // A line of each file descriptor in the interest list (proc_pid_fdinfo(5)).
                let list = fs::read_to_string(format!("/proc/{process}/fdinfo/{fd}"));
                let list = list.unwrap_or_default();
                let inodes = list.split_whitespace().filter_map(|word| word.strip_prefix("ino:"));
                for inode in inodes.filter_map(|inode| u64::from_str_radix(inode, 16).ok()) {
                    if let Some(worker) = workers.get_mut(&inode) {
                        worker.epoll = Some(fd);
                    }
                }
            }
        }
        let of = |client: &Client| {
            let socket = sockets::server_side(client.address()?, self.server.address())?;
            let inode = socket.context("the server has no socket for the client")?.inode;
            workers.get(&inode).copied().context("no worker has the socket of the client")
        };
        clients.iter().map(of).collect()
    }
}

/// A thread that ptrace(2) has stopped, as if it were busy. Dropping this lets it continue.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops the thread. The thread that calls this must also drop the result.
    pub fn new(thread: Pid) -> Result<Self> {
        ptrace::seize(thread, ptrace::Options::empty()).context("ptrace(PTRACE_SEIZE)")?;
        let stopped = Self(thread);
        ptrace::interrupt(thread).context("ptrace(PTRACE_INTERRUPT)")?;
        waitpid(thread, Some(WaitPidFlag::__WALL)).context("waitpid")?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None); // it fails if the thread has ended
    }
}

/// Why this machine cannot stop a single thread, if so.
pub(crate) fn cannot_stop() -> Option<&'static str> {
    use std::process::{Command, Stdio};
    let child = Command::new("sleep").arg("60").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let Ok(mut child) = child else { return Some("sleep cannot be started") };
    let stopped = Stopped::new(Pid::from_raw(child.id() as i32)).is_ok();
    let _ = child.kill();
    let _ = child.wait();
    (!stopped).then_some("ptrace is not allowed here")
}
