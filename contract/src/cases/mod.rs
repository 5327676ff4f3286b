//! The cases, one module per line of the contract.

mod accept;
mod backpressure;
mod chat;
mod closing;
mod datagrams;
mod dead_peers;
mod fairness;
mod half_close;
mod idle;
mod integrity;
mod interruption;
mod isolation;
mod leaks;
mod limits;
mod log;
mod shutdown;
mod start;
mod workers;

use crate::{Case, Kind};

/// The lines of the contract, each with its name and cases.
pub type Lines = &'static [(&'static str, &'static [Case])];

/// The lines for the TCP echo servers, in the order of the contract, and then what the log shows.
pub const ECHO: Lines = &[
    ("isolation", isolation::CASES),
    ("accept", accept::CASES),
    ("integrity", integrity::CASES),
    ("backpressure", backpressure::CASES),
    ("half_close", half_close::CASES),
    ("closing", closing::CASES),
    ("fairness", fairness::CASES),
    ("limits", limits::CASES),
    ("workers", workers::CASES),
    ("interruption", interruption::CASES),
    ("shutdown", shutdown::CASES),
    ("leaks", leaks::CASES),
    ("dead_peers", dead_peers::CASES),
    ("start", start::CASES),
    ("idle", idle::CASES),
    ("log", log::CASES),
];

/// The lines for the UDP echo servers.
pub const DATAGRAM: Lines = datagrams::LINES;

/// The lines for the chat servers: the rules of the room, and then the lines of the contract.
pub const CHAT: Lines = chat::LINES;

/// What holds for every chat server, even the smallest: for a server that is not of the workspace.
pub const SMALL_CHAT: Lines = chat::SMALL;

/// What a line of the contract promises.
#[must_use]
pub fn promise(line: &str) -> &'static str {
    match line {
        "isolation" => "whatever one client does, only that client is affected",
        "accept" => "no failure of accept ends the server or makes it spin",
        "integrity" => "every byte comes back once, in order; every request is answered",
        "backpressure" => "the server does not read from a client that does not read",
        "half_close" => "after the client's FIN all pending output arrives, and then EOF",
        "closing" => "if the server closes first, everything that it has written arrives",
        "fairness" => "beside clients that flood the server, others wait milliseconds",
        "limits" => "clients beyond the limit are refused or wait; none hangs",
        "workers" => {
            "connections are spread as the design promises; a busy or dead worker affects only its clients"
        }
        "interruption" => "EINTR, SIGSTOP and SIGCONT change nothing",
        "shutdown" => "SIGINT and SIGTERM end the server at once, whatever the clients do",
        "leaks" => "when the clients have left, the server's resources are as before",
        "dead_peers" => "the connection of a client that has vanished is released",
        "start" => "if the server cannot start, it says why and ends",
        "idle" => "idle connections use no processor time and no buffer",
        "log" => "the log shows what happens, and never blocks the server",
        "chat_rules" => "the rules of the room",
        "chat_order" => "all clients receive the lines in the same order; none is lost",
        "chat_slow_client" => "a client that does not read is disconnected; nobody waits for it",
        "chat_burst" => "many clients may join and leave at once",
        "chat_idle_timeout" => "idle clients are sent away",
        "chat_room" => "every client receives the lines of the others",
        _ => "",
    }
}

/// The lines that the cases of a line build on. If one of these is not kept, such a case may fail
/// although its own line is kept: a server that loses data loses it after a half-close too.
#[must_use]
pub fn builds_on(line: &str) -> &'static [&'static str] {
    match line {
        "accept" | "closing" => &["integrity"],
        "backpressure" | "idle" | "start" => &["integrity", "accept"],
        "half_close" | "shutdown" => &["integrity", "accept", "backpressure"],
        "isolation" => &["integrity", "accept", "backpressure", "half_close"],
        "dead_peers" => &["integrity", "accept", "half_close"],
        "fairness" | "limits" | "workers" | "leaks" => {
            &["integrity", "accept", "half_close", "isolation"]
        }
        "interruption" => &["integrity", "half_close", "accept"],
        "log" => &["integrity", "shutdown"],
        _ => &[],
    }
}

/// The lines for servers of this kind.
#[must_use]
pub fn lines(kind: Kind) -> Lines {
    match kind {
        Kind::Echo => ECHO,
        Kind::Datagram => DATAGRAM,
        Kind::Chat => CHAT,
    }
}
