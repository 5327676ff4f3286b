//! The chat servers: the rules of the room, and the contract that every server keeps, with clients
//! that send lines to each other.

mod burst;
mod idle_timeout;
mod lines;
mod order;
mod room;
mod rules;
mod slow_client;

use anyhow::Result;

use super::{log, start};
use crate::{Case, ChatClient, Server, Target};

/// The rules of the room, and then the lines of the contract, in its order.
pub const LINES: super::Lines = &[
    ("chat_rules", rules::CASES),
    ("chat_order", order::CASES),
    ("chat_slow_client", slow_client::CASES),
    ("chat_burst", burst::CASES),
    ("chat_idle_timeout", idle_timeout::CASES),
    ("chat_room", room::CASES),
    ("isolation", lines::ISOLATION),
    ("accept", lines::ACCEPT),
    ("closing", lines::CLOSING),
    ("fairness", lines::FAIRNESS),
    ("limits", lines::LIMITS),
    ("interruption", lines::INTERRUPTION),
    ("shutdown", lines::SHUTDOWN),
    ("leaks", lines::LEAKS),
    ("dead_peers", super::dead_peers::CASES),
    ("start", start::CASES),
    ("idle", lines::IDLE),
    ("log", LOG),
];

/// What even the smallest chat server keeps.
pub const SMALL: super::Lines = &[
    ("chat_idle_timeout", &[idle_timeout::INPUT_BEFORE_DEADLINE]),
    ("chat_room", room::CASES),
    ("shutdown", &[super::shutdown::SIGTERM_NO_CLIENT]),
    ("start", &[start::IN_USE]),
];

const LOG: &[Case] = &[
    lines::CONNECTED_AND_DISCONNECTED,
    lines::TWO_PHASES,
    log::RESET_BEFORE_ACCEPT,
    log::FULL_PIPE,
];

/// Lets `N` clients join. Each has received the lines about those that joined after it.
fn join<const N: usize>(server: &Server) -> Result<[ChatClient; N]> {
    let mut clients: Vec<ChatClient> = Vec::with_capacity(N);
    for _ in 0..N {
        let client = ChatClient::join(server)?;
        let joined = format!("* {} joined", client.name());
        clients.iter().try_for_each(|other| other.expect_line(&joined))?;
        clients.push(client);
    }
    clients.try_into().map_err(|_| anyhow::anyhow!("not {N} clients"))
}

/// Runs a case with `N` clients in the room.
fn with_clients<const N: usize>(
    target: &Target,
    case: impl FnOnce(&mut Server, [ChatClient; N]) -> Result<()>,
) -> Result<()> {
    target.launch().serve(|server| {
        let clients = join(server)?;
        case(server, clients)
    })
}
