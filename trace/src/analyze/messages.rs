//! Which call took which message: the bytes that a client sent are counted, and so are the bytes
//! that the server's calls copied on that client's connection.

use crate::call::CallId;
use crate::session::{Action, ActionKind};
use crate::syscalls::Direction;
use crate::timeline::{Message, Timeline};

pub fn find(timeline: &mut Timeline) {
    for client in 0..timeline.session.clients.len() {
        for direction in [Direction::In, Direction::Out] {
            match_bytes(timeline, client, direction);
        }
    }
    match_connections(timeline);
}

/// Matches `accept` with connecting, and the read that returned 0 with disconnecting.
fn match_connections(timeline: &mut Timeline) {
    for id in timeline.call_ids(|call| call.client.is_some()) {
        let call = timeline.call(id);
        let Some(client) = call.client else { continue };
        let kind = match call.copied {
            _ if call.name.starts_with("accept") => ActionKind::Connect,
            Some((Direction::In, 0)) => ActionKind::Disconnect,
            _ => continue,
        };
        let actions = &timeline.session.clients[client].actions;
        if let Some(action) = actions.iter().position(|action| action.kind == kind) {
            let direction = Direction::In;
            timeline.messages.push(Message { client, action, call: id, direction });
        }
    }
}

/// A part of a byte stream: of one action of a client, or of one call of the server.
struct Chunk<T> {
    id: T,
    start: u64,
    end: u64,
}

/// Numbers the bytes of a stream, given the length of each of its chunks.
fn chunks<T>(lengths: impl IntoIterator<Item = (T, u64)>) -> Vec<Chunk<T>> {
    let mut start = 0;
    let mut chunks = Vec::new();
    for (id, length) in lengths {
        chunks.push(Chunk { id, start, end: start + length });
        start += length;
    }
    chunks
}

/// Returns the chunk that contains the byte at `offset`.
fn containing<T>(chunks: &[Chunk<T>], offset: u64) -> Option<&Chunk<T>> {
    chunks.get(chunks.partition_point(|chunk| chunk.end <= offset))
}

fn match_bytes(timeline: &mut Timeline, client: usize, direction: Direction) {
    let mut copies: Vec<(CallId, u64)> = Vec::new();
    for id in timeline.call_ids(|call| call.client == Some(client)) {
        match timeline.call(id).copied {
            Some((way, bytes)) if way == direction && bytes > 0 => copies.push((id, bytes)),
            _ => {}
        }
    }
    copies.sort_by_key(|&(id, bytes)| (timeline.call(id).end, bytes, id));
    let copies = chunks(copies);
    let length = |action: &Action| match (action.kind, direction) {
        (ActionKind::Send(bytes), Direction::In) | (ActionKind::Receive(bytes), Direction::Out) => {
            Some(bytes)
        }
        _ => None,
    };
    let actions = timeline.session.clients[client].actions.iter().enumerate();
    let actions = chunks(actions.filter_map(|(index, action)| Some((index, length(action)?))));

    // A message begins with the first byte of what was sent. Calls that receive the rest of it
    // belong to the same message.
    match direction {
        Direction::In => {
            for action in &actions {
                if let Some(copy) = containing(&copies, action.start) {
                    let (action, call) = (action.id, copy.id);
                    timeline.messages.push(Message { client, action, call, direction });
                }
            }
            for copy in &copies {
                if let Some(action) = containing(&actions, copy.start) {
                    let sent = timeline.session.clients[client].actions[action.id].start;
                    timeline.call_mut(copy.id).set_arrival(sent);
                }
            }
        }
        Direction::Out => {
            for copy in &copies {
                if let Some(action) = containing(&actions, copy.start) {
                    let (action, call) = (action.id, copy.id);
                    timeline.messages.push(Message { client, action, call, direction });
                }
            }
        }
    }
}
