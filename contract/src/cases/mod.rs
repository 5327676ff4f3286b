//! The cases, one module per line of the contract.

pub mod accept;
pub mod backpressure;
pub mod chat;
pub mod datagrams;
pub mod fairness;
pub mod half_close;
pub mod idle;
pub mod integrity;
pub mod interruption;
pub mod isolation;
pub mod leaks;
pub mod limits;
pub mod log;
pub mod shutdown;
pub mod start;

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
    ("fairness", fairness::CASES),
    ("limits", limits::CASES),
    ("interruption", interruption::CASES),
    ("shutdown", shutdown::CASES),
    ("leaks", leaks::CASES),
    ("start", start::CASES),
    ("idle", idle::CASES),
    ("log", log::CASES),
];

/// The lines for servers of this kind.
#[must_use]
pub fn lines(kind: Kind) -> Lines {
    match kind {
        Kind::Echo => ECHO,
        Kind::Datagram => datagrams::LINES,
        Kind::Chat => chat::LINES,
    }
}
