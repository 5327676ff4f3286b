//! The chat servers: the rules of the room, and the contract that every server keeps, put to
//! those who speak in lines to each other.
//!
//! What a case has to know of a server is in the common table, so that each can be run against any
//! chat, and against one that is made to fail it.

mod burst;
mod idle_timeout;
mod lines;
mod order;
mod room;
mod rules;
mod slow_client;

use anyhow::Result;

use crate::{ChatClient, Server, Target};

use crate::cases::start;

/// The rules of the room; then the lines of the contract, in its order.
pub const LINES: crate::cases::Lines = &[
    ("chat_rules", rules::CASES),
    ("chat_order", order::CASES),
    ("chat_slow_client", slow_client::CASES),
    ("chat_burst", burst::CASES),
    ("chat_idle_timeout", idle_timeout::CASES),
    ("chat_room", room::CASES),
    ("isolation", lines::ISOLATION),
    ("accept", lines::ACCEPT),
    ("fairness", lines::FAIRNESS),
    ("limits", lines::LIMITS),
    ("interruption", lines::INTERRUPTION),
    ("shutdown", lines::SHUTDOWN),
    ("leaks", lines::LEAKS),
    ("start", start::CASES),
    ("idle", lines::IDLE),
    ("log", lines::LOG),
];

/// A room with so many guests, each of whom has heard who came after it.
fn room<const N: usize>(server: &Server) -> Result<[ChatClient; N]> {
    let mut guests: Vec<ChatClient> = Vec::with_capacity(N);
    for _ in 0..N {
        let guest = ChatClient::join(server)?;
        let joined = format!("* {} joined", guest.name());
        guests.iter().try_for_each(|other| other.expect_line(&joined))?;
        guests.push(guest);
    }
    guests.try_into().map_err(|_| anyhow::anyhow!("not {N} guests"))
}

/// Runs a case in a room with so many guests.
fn with_guests<const N: usize>(
    target: &Target,
    case: impl FnOnce(&mut Server, [ChatClient; N]) -> Result<()>,
) -> Result<()> {
    target.launch().serve(|server| {
        let guests = room(server)?;
        case(server, guests)
    })
}
