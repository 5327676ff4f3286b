//! What a case runs against: how to start a server, how to talk to it, and its properties.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::catalog::{Entry, Kind};
use crate::command::Command;
use crate::probe::{Probe, Protocol};
use crate::server::{Launch, Readiness};
use crate::{Client, chat_client};

/// A server, and the properties that decide which cases apply to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name, for messages.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// How clients talk to it.
    pub probe: Probe,
    /// The limits of its model.
    pub properties: Properties,
}

/// Where a server comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A server of this workspace, with its second argument.
    Workspace(&'static Entry, Option<&'static str>),
    /// A command.
    Command(Command),
    /// A server that runs already.
    Running(SocketAddr),
}

/// What a server can do, and the documented limits of its model.
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of one another")]
pub struct Properties {
    /// How many clients it serves at the same time. The others wait in the backlog.
    pub max_concurrent: usize,
    /// It refuses clients beyond this number.
    pub max_clients: Option<usize>,
    /// It has a thread per client, and refuses clients beyond this number of threads.
    pub max_threads: Option<usize>,
    /// It refuses file descriptors from this number on (`FD_SETSIZE`).
    pub fd_setsize: Option<u64>,
    /// File descriptors per client in the process that accepts. `None`: unknown.
    pub descriptors_per_client: Option<usize>,
    /// How it distributes the connections over its workers (loops in threads, or processes), if it
    /// has several and promises that.
    pub spread: Option<Spread>,
    /// Whether its workers are processes, which it replaces when they end.
    pub worker_processes: bool,
    /// How many connections wait for `accept` in the kernel: the second argument of `listen`.
    pub backlog: usize,
    /// The limit of file descriptors under which it runs out of them.
    pub fd_limit: u64,
    /// Whether a change of that limit has no effect on its accept, because the operation was submitted
    /// once for all connections (multishot, `io_uring`).
    pub keeps_fd_limit: bool,
    /// Whether no client is served while it computes for one of them (`/factor`).
    pub computes_in_loop: bool,
    /// What it does while nothing happens.
    pub at_rest: AtRest,
    /// Whether signals notify it of events on its sockets.
    pub uses_signals: bool,
    /// Bytes of memory that an idle client may cost. `None`: no limit, because a thread or a
    /// process with a stack of its own waits for the client.
    pub idle_memory: Option<u64>,
    /// How many idle clients the cases connect.
    pub idle_clients: usize,
    /// Bytes of memory by which it may grow for a client that does not read, and with the clients
    /// that have left.
    pub memory: u64,
    /// How long it may take to end after SIGTERM.
    pub stop: Duration,
    /// Whether it has to end with status 0 after SIGTERM. Otherwise the signal may also end it.
    pub stops_with_zero: bool,
    /// After how much time it closes an idle connection.
    pub idle_timeout: Option<Duration>,
}

/// What a server does while its clients do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtRest {
    /// It sleeps until something happens.
    Sleeps,
    /// It wakes up now and then, as many runtimes do, and uses little processor time.
    WakesUp,
    /// It polls, and may use a core.
    Polls,
}

/// Which worker of a server gets a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The one that has waited longest: they take turns (FIFO).
    InTurn,
    /// The kernel chooses by a hash of the addresses and ports.
    ByHash,
    /// The first of a fixed order that is idle. So if none is busy, always the same one.
    FirstIdle,
    /// The one with the fewest connections.
    Fewest,
}

impl Properties {
    /// A server that serves all clients at the same time, with one file descriptor per client, and
    /// that uses no processor time while nothing happens.
    pub const DEFAULT: Self = Self {
        max_concurrent: usize::MAX,
        max_clients: None,
        max_threads: None,
        fd_setsize: None,
        descriptors_per_client: Some(1),
        spread: None,
        worker_processes: false,
        backlog: 100,
        fd_limit: 64,
        keeps_fd_limit: false,
        computes_in_loop: false,
        at_rest: AtRest::Sleeps,
        uses_signals: false,
        idle_memory: None,
        idle_clients: 1000,
        memory: 1 << 20,
        stop: Duration::from_secs(1),
        stops_with_zero: true,
        idle_timeout: None,
    };
}

impl Properties {
    /// The options of the program `contract` that describe a server of this workspace with these
    /// properties.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let at_rest = match self.at_rest {
            AtRest::Sleeps => "sleeps",
            AtRest::WakesUp => "wakes-up",
            AtRest::Polls => "polls",
        };
        let mut options =
            vec!["--at-rest".to_owned(), at_rest.to_owned(), "--strict-stop".to_owned()];
        let mut add = |name: &str, value: u64| options.extend([name.to_owned(), value.to_string()]);
        add("--memory", self.memory >> 20);
        add("--idle-clients", self.idle_clients as u64);
        if self.max_concurrent < usize::MAX {
            add("--max-concurrent", self.max_concurrent as u64);
        }
        if let Some(count) = self.max_clients {
            add("--max-clients", count as u64);
        }
        if let Some(limit) = self.fd_setsize {
            add("--fd-setsize", limit);
        }
        if let Some(bytes) = self.idle_memory {
            add("--idle-memory", bytes);
        }
        if let Some(timeout) = self.idle_timeout {
            add("--idle-timeout", timeout.as_secs());
        }
        if self.uses_signals {
            options.push("--uses-signals".to_owned());
        }
        if self.worker_processes {
            options.push("--worker-processes".to_owned());
        }
        if let Some(spread) = self.spread {
            let name = match spread {
                Spread::InTurn => "in-turn",
                Spread::ByHash => "by-hash",
                Spread::FirstIdle => "first-idle",
                Spread::Fewest => "fewest",
            };
            options.extend(["--spread".to_owned(), name.to_owned()]);
        }
        options
    }
}

impl From<&'static Entry> for Target {
    fn from(entry: &'static Entry) -> Self {
        let protocol = match entry.kind {
            Kind::Echo | Kind::Datagram => Protocol::Echo,
            Kind::Chat => Protocol::Chat,
        };
        Self {
            name: entry.name.to_owned(),
            origin: Origin::Workspace(entry, entry.argument),
            probe: Probe::new(protocol),
            properties: entry.properties,
        }
    }
}

impl Target {
    /// Its catalog entry, if it is a server of this workspace.
    #[must_use]
    pub fn entry(&self) -> Option<&'static Entry> {
        match self.origin {
            Origin::Workspace(entry, _) => Some(entry),
            _ => None,
        }
    }

    /// The second argument of a server of this workspace.
    #[must_use]
    pub fn argument(&self) -> Option<&'static str> {
        match self.origin {
            Origin::Workspace(_, argument) => argument,
            _ => None,
        }
    }

    /// Whether a client is served while another one is.
    #[must_use]
    pub fn is_concurrent(&self) -> bool {
        self.properties.max_concurrent > 1
    }

    /// Whether the cases start the server themselves.
    #[must_use]
    pub fn is_started_here(&self) -> bool {
        !matches!(self.origin, Origin::Running(_))
    }

    /// The same server of the workspace with another second argument.
    #[must_use]
    pub fn with_argument(&self, argument: &'static str) -> Self {
        let mut target = self.clone();
        if let Origin::Workspace(entry, _) = self.origin {
            target.origin = Origin::Workspace(entry, Some(argument));
        }
        target
    }

    /// The same server, with an argument that makes it pause between polls.
    #[must_use]
    pub fn quiet(&self) -> Self {
        match self.entry().and_then(|entry| entry.quiet_argument) {
            Some(argument) => self.with_argument(argument),
            None => self.clone(),
        }
    }

    /// Ready to start on a free port of `127.0.0.1`, with its usual arguments.
    #[must_use]
    pub fn launch(&self) -> Launch {
        match &self.origin {
            Origin::Workspace(entry, argument) => {
                let further = entry.further_arguments.iter().copied();
                self.launch_with(["127.0.0.1:0"].into_iter().chain(*argument).chain(further))
            }
            Origin::Command(command) => {
                let (program, arguments, address) = command.instance();
                Launch::new(self.name.clone(), arguments)
                    .program(PathBuf::from(program))
                    .probe(self.probe.clone())
                    .backlog(self.properties.backlog)
                    .readiness(Readiness::Listens(address))
            }
            Origin::Running(address) => Launch::new(self.name.clone(), [""; 0])
                .probe(self.probe.clone())
                .backlog(self.properties.backlog)
                .readiness(Readiness::Runs(*address)),
        }
    }

    /// A server of the workspace, ready to start with exactly these arguments.
    #[must_use]
    pub fn launch_with<A: Into<OsString>>(&self, arguments: impl IntoIterator<Item = A>) -> Launch {
        Launch::new(self.name.clone(), arguments).probe(self.probe.clone())
    }

    /// Does what a new client does to know that the server serves it.
    pub fn greet(&self, client: &Client) -> Result<()> {
        match self.probe.protocol {
            Protocol::Chat if self.entry().is_some() => {
                chat_client::read_greeting(client).map(drop)
            }
            Protocol::Chat => {
                let line = client.line()?.context("the connection ended before a greeting")?;
                ensure!(line.starts_with("* you are "), "the greeting is {line:?}");
                Ok(())
            }
            _ => client.exchange(1),
        }
    }
}
