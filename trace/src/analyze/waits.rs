//! How long each call was blocked, from what the clients did.

use crate::call::{BLOCKED, Phase};
use crate::session::ActionKind;
use crate::strace::Nanos;
use crate::syscalls::Direction;
use crate::timeline::{Message, Timeline};

/// A write that took longer than this has waited for the client to read. A client that reads
/// late does so after tens of milliseconds.
const BLOCKED_WRITE: Nanos = 5_000_000;

/// Makes each wait end after the action that ended it. See [`crate::call::Call::set_arrival`].
pub fn correct_ends(timeline: &mut Timeline) {
    let mut actions: Vec<Nanos> = timeline.session.actions().map(|action| action.start).collect();
    actions.sort_unstable();
    for thread in &mut timeline.threads {
        for index in 0..thread.calls.len() {
            let next = thread.calls.get(index + 1);
            let next = next.map_or(timeline.session.end, |next| next.start);
            let call = &mut thread.calls[index];
            if call.phase != Phase::Waiting || call.end - call.start < BLOCKED {
                continue;
            }
            let first = actions.partition_point(|&action| action <= call.end - BLOCKED);
            if let Some(&action) = actions.get(first).filter(|&&action| action <= next) {
                call.end = call.end.max(action);
            }
        }
    }
}

/// Finds the waits in calls that also do something else: accept, see the end of the input, or
/// write to a client that does not read.
pub fn find(timeline: &mut Timeline) {
    for &Message { client, action, call, direction } in &timeline.messages {
        let action = timeline.session.clients[client].actions[action];
        let call = &mut timeline.threads[call.thread].calls[call.call];
        let waits = matches!(action.kind, ActionKind::Connect | ActionKind::Disconnect);
        if direction == Direction::In && waits {
            call.set_arrival(action.start);
        }
    }
    for call in timeline.threads.iter_mut().flat_map(|thread| &mut thread.calls) {
        let (Some((Direction::Out, _)), Some(client)) = (call.copied, call.client) else {
            continue;
        };
        if call.can_block && call.end - call.start > BLOCKED_WRITE {
            let actions = timeline.session.clients[client].actions.iter();
            let mut reads = actions.filter(|it| matches!(it.kind, ActionKind::Receive(_)));
            if let Some(read) = reads.find(|read| read.start > call.start + BLOCKED) {
                call.set_arrival(read.start);
            }
        }
    }
}
