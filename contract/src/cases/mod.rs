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

/// The lines for servers of this kind.
#[must_use]
pub fn lines(kind: Kind) -> Lines {
    match kind {
        Kind::Echo => ECHO,
        Kind::Datagram => DATAGRAM,
        Kind::Chat => CHAT,
    }
}
