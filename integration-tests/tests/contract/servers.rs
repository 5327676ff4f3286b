//! The table of servers: each with what sets it apart, and so with the cases that it is spared.

use integration_tests::Server;
use integration_tests::server::{CHAT, ECHO, no_io_uring};

/// A number below `FD_SETSIZE`, as the server has descriptors of its own.
const SELECT_HOLDS: usize = 900;

/// A thread of glibc's for each client, or two.
const AIO_HOLDS: usize = 1024;

/// Bytes that an idle client may cost a server that has no thread or process for it: its entry
/// in the tables, which may be half empty after they have grown; far less than any buffer.
const AN_ENTRY: u64 = 300;

pub const SERVERS: &[Server] = &[
    Server { package: "blocking-echo", name: "blocking-echo", ..ECHO },
    Server {
        package: "blocking-echo",
        name: "blocking-echo-iterative",
        // The next client waits until this one has left, whatever it does meanwhile: nothing
        // about a peer beside another can hold.
        at_once: 1,
        ..ECHO
    },
    Server {
        package: "blocking-echo",
        name: "blocking-echo-fork",
        // Each client's is open in a process of its own: the one that accepts is never short.
        descriptors_per_client: 0,
        ..ECHO
    },
    Server {
        package: "blocking-echo",
        name: "blocking-echo-pool",
        argument: Some("64"),
        at_once: 64,
        bad_arguments: &["0", "-1", "x", ""],
        ..ECHO
    },
    Server {
        package: "nonblocking-echo",
        name: "nonblocking-echo",
        argument: Some("0"),
        // To use a core all the time, idle or starved, is the model's point.
        calm_argument: Some("20"),
        // Each round asks every one of them.
        idle_clients: 500,
        bad_arguments: &["-1", "501", "x", "", "NaN", "inf"],
        ..ECHO
    },
    Server {
        package: "select-echo",
        name: "select-echo",
        highest_descriptor: Some(1024),
        idle_memory: Some(AN_ENTRY),
        idle_clients: SELECT_HOLDS,
        ..ECHO
    },
    Server {
        package: "poll-echo",
        name: "poll-echo",
        idle_memory: Some(AN_ENTRY),
        idle_clients: 5000,
        ..ECHO
    },
    Server {
        package: "epoll-echo",
        name: "epoll-echo",
        idle_memory: Some(AN_ENTRY),
        idle_clients: 5000,
        ..ECHO
    },
    Server {
        package: "epoll-echo",
        name: "epoll-echo-edge",
        idle_memory: Some(AN_ENTRY),
        idle_clients: 5000,
        ..ECHO
    },
    Server {
        package: "sigio-echo",
        name: "sigio-echo",
        is_told_by_signals: true,
        idle_memory: Some(AN_ENTRY),
        // Each signal has it try every one of them.
        idle_clients: 2000,
        ..ECHO
    },
    Server {
        package: "sigio-echo",
        name: "sigio-echo-realtime",
        is_told_by_signals: true,
        idle_memory: Some(AN_ENTRY),
        idle_clients: 5000,
        ..ECHO
    },
    Server {
        package: "aio-echo",
        name: "aio-echo",
        most_clients: Some(AIO_HOLDS),
        is_told_by_signals: true,
        ..ECHO
    },
    Server { package: "uring-echo", name: "uring-echo", lacks: no_io_uring, ..ECHO },
];

/// The one that has no connections: it has cases of its own.
pub const DATAGRAMS: &[Server] = &[Server {
    package: "sigio-echo",
    name: "sigio-echo-udp",
    shares_socket: true,
    // It knows nothing of a peer between two datagrams.
    idle_memory: Some(0),
    ..ECHO
}];

/// Bytes that an idle guest may cost a chat server: its entries in the room and in the server's
/// tables, and room for some lines to come; less than a buffer for the next read.
const A_GUEST: u64 = 4000;

/// The chat servers, over which the room's rules and most of the contract run.
pub const CHATS: &[Server] = &[
    Server { package: "reactor-chat", name: "reactor-chat", idle_memory: Some(A_GUEST), ..CHAT },
    // It reads through one descriptor of a client's and writes through another.
    Server {
        package: "proactor-chat",
        name: "proactor-chat",
        most_clients: Some(AIO_HOLDS),
        descriptors_per_client: 2,
        ..CHAT
    },
    Server {
        package: "proactor-chat",
        name: "proactor-chat-simulated",
        idle_memory: Some(A_GUEST),
        ..CHAT
    },
    Server {
        package: "proactor-chat",
        name: "proactor-chat-uring",
        // The kernel has a buffer of 4 KiB to complete the next read in.
        idle_memory: Some(4096 + A_GUEST),
        lacks: no_io_uring,
        ..CHAT
    },
];
