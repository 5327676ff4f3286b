//! The one list of the servers of this workspace, with what sets each apart.
//!
//! The tests, the benchmark, the recordings and the documentation read this list. To add a server,
//! add its file and its entry here; the tests then say what else is missing.

use crate::server::no_io_uring;
use crate::target::{AtRest, Properties, Spread};

/// A server of the workspace.
#[derive(Debug)]
pub struct Entry {
    /// The package that builds it.
    pub package: &'static str,
    /// The name of its binary.
    pub name: &'static str,
    /// What it speaks.
    pub kind: Kind,
    /// Its second argument.
    pub argument: Option<&'static str>,
    /// The arguments after the second one, with which the cases start it.
    pub further_arguments: &'static [&'static str],
    /// The second argument with which it pauses between polls.
    pub quiet_argument: Option<&'static str>,
    /// Second arguments that it has to refuse.
    pub bad_arguments: &'static [&'static str],
    /// What it needs and this machine does not have, if anything.
    pub unavailable: fn() -> Option<&'static str>,
    /// The limits of its model, which decide which cases apply.
    pub properties: Properties,
}

/// What a server speaks, and so which cases apply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP: the bytes that a client sends come back.
    Echo,
    /// UDP: the datagram that a peer sends comes back.
    Datagram,
    /// TCP: the chat room of this workspace.
    Chat,
}

impl Kind {
    /// The address on which the servers of this kind listen by default.
    #[must_use]
    pub fn default_address(self) -> &'static str {
        match self {
            Self::Echo | Self::Datagram => "127.0.0.1:7000",
            Self::Chat => "127.0.0.1:7001",
        }
    }
}

/// An echo server with the default properties.
pub const ECHO: Entry = Entry {
    package: "",
    name: "",
    kind: Kind::Echo,
    argument: None,
    further_arguments: &[],
    quiet_argument: None,
    bad_arguments: &[],
    unavailable: || None,
    properties: Properties::DEFAULT,
};

/// An echo server with several event loops. Two, also on a machine with one core.
const LOOPS: Entry = Entry { argument: Some("2"), bad_arguments: &["-1", "x", "", "1025"], ..ECHO };

/// A chat server with the default properties.
pub const CHAT: Entry = Entry {
    kind: Kind::Chat,
    argument: Some("300"),
    bad_arguments: &["-1", "x", "", "1.5", "4294967296"],
    ..ECHO
};

const DEFAULT: Properties = Properties::DEFAULT;

/// A number below `FD_SETSIZE` (1024), because the server has file descriptors of its own.
const SELECT_CLIENTS: usize = 900;

/// A thread takes four of the 65,530 mappings that a process may have.
const MOST_THREADS: usize = 15_000;

/// The AIO servers use one or two threads of glibc's per client.
const AIO_CLIENTS: usize = 1024;

/// Bytes of memory that an idle client may cost a server without a thread or process per client:
/// its entries in the tables, which may be half empty after they have grown. Much less than a
/// buffer.
const TABLE_ENTRIES: u64 = 300;

/// Bytes of memory that an idle client may cost a server with a task per client: the state machine,
/// and entries in the tables.
const TASK: u64 = 600;

/// Bytes of memory that an idle client may cost a chat server: its entries in the room and in the
/// server's tables, and space for a few lines. Less than a read buffer.
const CHAT_ENTRIES: u64 = 4000;

/// Every server of the workspace.
pub const SERVERS: &[Entry] = &[
    Entry {
        package: "blocking-echo",
        name: "blocking-echo",
        properties: Properties { max_threads: Some(MOST_THREADS), ..DEFAULT },
        ..ECHO
    },
    Entry {
        package: "blocking-echo",
        name: "blocking-echo-iterative",
        // The next client waits until this one has disconnected. No case about one client beside
        // another can pass.
        properties: Properties { max_concurrent: 1, ..DEFAULT },
        ..ECHO
    },
    Entry {
        package: "blocking-echo",
        name: "blocking-echo-fork",
        // Each client's socket is open in a process of its own, so the process that accepts does
        // not run out of file descriptors.
        properties: Properties { descriptors_per_client: Some(0), ..DEFAULT },
        ..ECHO
    },
    Entry {
        package: "blocking-echo",
        name: "blocking-echo-pool",
        argument: Some("64"),
        bad_arguments: &["0", "15001", "-1", "x", ""],
        properties: Properties { max_concurrent: 64, ..DEFAULT },
        ..ECHO
    },
    Entry {
        package: "blocking-echo",
        name: "blocking-echo-prefork",
        argument: Some("16"),
        bad_arguments: &["0", "-1", "x", "", "1001"],
        properties: Properties {
            max_concurrent: 16,
            // Each worker has a table of file descriptors of its own, with one client at a time.
            descriptors_per_client: Some(0),
            spread: Some(Spread::InTurn),
            worker_processes: true,
            ..DEFAULT
        },
        ..ECHO
    },
    Entry {
        package: "nonblocking-echo",
        name: "nonblocking-echo",
        argument: Some("0"),
        quiet_argument: Some("20"),
        bad_arguments: &["-1", "501", "x", "", "NaN", "inf"],
        // Each iteration reads from every socket, so the cases connect fewer clients.
        properties: Properties { at_rest: AtRest::Polls, idle_clients: 500, ..DEFAULT },
        ..ECHO
    },
    Entry {
        package: "select-echo",
        name: "select-echo",
        properties: Properties {
            fd_setsize: Some(1024),
            idle_memory: Some(TABLE_ENTRIES),
            idle_clients: SELECT_CLIENTS,
            ..DEFAULT
        },
        ..ECHO
    },
    Entry { package: "poll-echo", name: "poll-echo", properties: EVENT_LOOP, ..ECHO },
    Entry { package: "epoll-echo", name: "epoll-echo", properties: EVENT_LOOP, ..ECHO },
    Entry { package: "epoll-echo", name: "epoll-echo-edge", properties: EVENT_LOOP, ..ECHO },
    Entry {
        package: "epoll-echo",
        name: "epoll-echo-reuseport",
        properties: Properties { spread: Some(Spread::ByHash), ..EVENT_LOOP },
        ..LOOPS
    },
    Entry {
        package: "epoll-echo",
        name: "epoll-echo-exclusive",
        properties: Properties { spread: Some(Spread::FirstIdle), ..EVENT_LOOP },
        ..LOOPS
    },
    Entry {
        package: "epoll-echo",
        name: "epoll-echo-handoff",
        properties: Properties { spread: Some(Spread::Fewest), ..EVENT_LOOP },
        ..LOOPS
    },
    Entry {
        package: "sigio-echo",
        name: "sigio-echo",
        // Each signal makes it try every socket, so the cases connect fewer clients.
        properties: Properties { uses_signals: true, idle_clients: 2000, ..EVENT_LOOP },
        ..ECHO
    },
    Entry {
        package: "sigio-echo",
        name: "sigio-echo-realtime",
        properties: Properties { uses_signals: true, ..EVENT_LOOP },
        ..ECHO
    },
    Entry {
        package: "sigio-echo",
        name: "sigio-echo-udp",
        kind: Kind::Datagram,
        // It keeps nothing about a peer between two datagrams.
        properties: Properties { idle_memory: Some(0), ..DEFAULT },
        ..ECHO
    },
    Entry {
        package: "aio-echo",
        name: "aio-echo",
        properties: Properties { max_clients: Some(AIO_CLIENTS), uses_signals: true, ..DEFAULT },
        ..ECHO
    },
    Entry { package: "uring-echo", name: "uring-echo", unavailable: no_io_uring, ..ECHO },
    Entry {
        package: "uring-echo",
        name: "uring-echo-buffers",
        unavailable: no_io_uring,
        properties: Properties { keeps_fd_limit: true, ..EVENT_LOOP },
        ..ECHO
    },
    Entry { package: "uring-echo", name: "uring-echo-threads", unavailable: no_io_uring, ..ECHO },
    Entry { package: "async-echo", name: "async-echo-states", properties: TASKS, ..ECHO },
    Entry { package: "async-echo", name: "async-echo", properties: TASKS, ..ECHO },
    Entry { package: "async-echo", name: "async-echo-uring", unavailable: no_io_uring, ..ECHO },
    Entry {
        package: "reactor-chat",
        name: "reactor-chat-single",
        properties: Properties {
            computes_in_loop: true,
            idle_memory: Some(CHAT_ENTRIES),
            ..DEFAULT
        },
        ..CHAT
    },
    Entry {
        package: "reactor-chat",
        name: "reactor-chat",
        properties: Properties { idle_memory: Some(CHAT_ENTRIES), ..DEFAULT },
        ..CHAT
    },
    Entry {
        package: "reactor-chat",
        name: "reactor-chat-multi",
        // Several loops, however many cores there are.
        further_arguments: &["3"],
        properties: Properties { idle_memory: Some(CHAT_ENTRIES), ..DEFAULT },
        ..CHAT
    },
    Entry {
        package: "proactor-chat",
        name: "proactor-chat",
        properties: Properties {
            max_clients: Some(AIO_CLIENTS),
            // It reads through one file descriptor of a client and writes through another.
            descriptors_per_client: Some(2),
            ..DEFAULT
        },
        ..CHAT
    },
    Entry {
        package: "proactor-chat",
        name: "proactor-chat-simulated",
        properties: Properties { idle_memory: Some(CHAT_ENTRIES), ..DEFAULT },
        ..CHAT
    },
    Entry {
        package: "proactor-chat",
        name: "proactor-chat-uring",
        unavailable: no_io_uring,
        properties: Properties { idle_memory: Some(CHAT_ENTRIES), ..DEFAULT },
        ..CHAT
    },
];

/// One thread, and a table of connections.
const EVENT_LOOP: Properties =
    Properties { idle_memory: Some(TABLE_ENTRIES), idle_clients: 5000, ..DEFAULT };

/// One thread, and a task per connection.
const TASKS: Properties = Properties { idle_memory: Some(TASK), ..EVENT_LOOP };

/// The servers of this kind.
pub fn servers(kind: Kind) -> impl Iterator<Item = &'static Entry> {
    SERVERS.iter().filter(move |entry| entry.kind == kind)
}

/// The server with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    SERVERS.iter().find(|entry| entry.name == name)
}
