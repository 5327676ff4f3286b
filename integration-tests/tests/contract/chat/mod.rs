//! The chat servers: the rules of the room, and the contract that every server keeps, put to
//! those who speak in lines to each other.
//!
//! What a case has to know of a server is in the common table, so that each can be run against any
//! chat, and against one that is made to fail it.

mod contract;
mod crowd;
mod idle_time;
mod order;
mod rules;
mod slow;

use anyhow::Result;
use integration_tests::{Guest, Running, Server};

use crate::case::Case;
use crate::{room, start};

/// The rules of the room; then the lines of the contract, in its order.
pub const CONTRACT: &[(&str, &[Case])] = &[
    ("chat_rules", rules::CASES),
    ("chat_order", order::CASES),
    ("chat_slow", slow::CASES),
    ("chat_crowd", crowd::CASES),
    ("chat_idle_time", idle_time::CASES),
    ("chat_room", room::CASES),
    ("isolation", contract::ISOLATION),
    ("accept", contract::ACCEPT),
    ("fairness", contract::FAIRNESS),
    ("limits", contract::LIMITS),
    ("interruption", contract::INTERRUPTION),
    ("shutdown", contract::SHUTDOWN),
    ("leaks", contract::LEAKS),
    ("start", start::CASES),
    ("idle", contract::IDLE),
    ("log", contract::LOG),
];

/// A room with so many guests, each of whom has heard who came after it.
fn room<const N: usize>(running: &Running) -> Result<[Guest; N]> {
    let mut guests: Vec<Guest> = Vec::with_capacity(N);
    for _ in 0..N {
        let guest = Guest::arrive(running)?;
        let joined = format!("* {} joined", guest.name());
        guests.iter().try_for_each(|other| other.hears(&joined))?;
        guests.push(guest);
    }
    guests.try_into().map_err(|_| anyhow::anyhow!("not {N} guests"))
}

/// Runs a case in a room with so many guests.
fn with_guests<const N: usize>(
    server: &Server,
    case: impl FnOnce(&mut Running, [Guest; N]) -> Result<()>,
) -> Result<()> {
    server.launch().serve(|running| {
        let guests = room(running)?;
        case(running, guests)
    })
}
