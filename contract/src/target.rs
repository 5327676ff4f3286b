//! What a case runs against: a server that can be started, and its properties.

use std::ffi::OsString;

use anyhow::Result;

use crate::catalog::{Entry, Kind};
use crate::server::Launch;
use crate::{Client, chat_client};

/// A server, and the properties that decide which cases apply to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Its catalog entry.
    pub entry: &'static Entry,
    /// Its second argument.
    pub argument: Option<&'static str>,
    /// The limits of its model.
    pub properties: Properties,
}

/// What a server can do, and the documented limits of its model.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// How many clients it serves at the same time. The others wait in the backlog.
    pub max_concurrent: usize,
    /// It refuses clients beyond this number.
    pub max_clients: Option<usize>,
    /// It refuses file descriptors from this number on (`FD_SETSIZE`).
    pub fd_setsize: Option<u64>,
    /// File descriptors per client in the process that accepts.
    pub descriptors_per_client: usize,
    /// Whether it has one socket for all peers, and no connections.
    pub connectionless: bool,
    /// Whether it polls: then it uses a core even if no client does anything.
    pub polls: bool,
    /// Whether signals notify it of events on its sockets.
    pub uses_signals: bool,
    /// Bytes of memory that an idle client may cost. `None`: no limit, because a thread or a
    /// process with a stack of its own waits for the client.
    pub idle_memory: Option<u64>,
    /// How many idle clients the cases connect.
    pub idle_clients: usize,
}

impl Properties {
    /// A server that serves all clients at the same time, with one file descriptor per client, and
    /// that uses no processor time while nothing happens.
    pub const DEFAULT: Self = Self {
        max_concurrent: usize::MAX,
        max_clients: None,
        fd_setsize: None,
        descriptors_per_client: 1,
        connectionless: false,
        polls: false,
        uses_signals: false,
        idle_memory: None,
        idle_clients: 1000,
    };
}

impl From<&'static Entry> for Target {
    fn from(entry: &'static Entry) -> Self {
        Self { name: entry.name, entry, argument: entry.argument, properties: entry.properties }
    }
}

impl Target {
    /// Whether a client is served while another one is.
    #[must_use]
    pub fn is_concurrent(&self) -> bool {
        self.properties.max_concurrent > 1
    }

    /// The same server with another second argument.
    #[must_use]
    pub fn with_argument(&self, argument: &'static str) -> Self {
        Self { argument: Some(argument), ..self.clone() }
    }

    /// The same server, with an argument that makes it pause between polls.
    #[must_use]
    pub fn quiet(&self) -> Self {
        Self { argument: self.entry.quiet_argument.or(self.argument), ..self.clone() }
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
        Launch::new(self.name, arguments)
    }

    /// Does what a new client does to know that the server serves it.
    pub fn greet(&self, client: &Client) -> Result<()> {
        match self.entry.kind {
            Kind::Echo | Kind::Datagram => client.echo(b"hello"),
            Kind::Chat => chat_client::read_greeting(client).map(drop),
        }
    }
}
