//! Completions: what the kernel copied while a thread waited in `io_uring_enter`.

use crate::call::{BLOCKED, Call, CallId, Phase};
use crate::syscalls::{Direction, is_completion_wait};
use crate::timeline::Timeline;

/// Assigns each message that the log reports to the wait in which the kernel copied it.
///
/// For input, that is the last wait that began before the log line. For output, it is the last
/// wait that began before the client had the bytes.
pub fn find(timeline: &mut Timeline) {
    let Timeline { session, threads, messages, .. } = timeline;
    for message in messages {
        let calls = &mut threads[message.call.thread].calls;
        let line = &calls[message.call.call];
        if !line.from_log {
            continue;
        }
        let action = session.clients[message.client].actions[message.action];
        let known = match message.direction {
            Direction::In => line.start,
            Direction::Out => line.start.min(action.end),
        };
        let is_before = |call: &Call| is_completion_wait(&call.name) && call.start < known;
        let Some(wait) = calls.iter().rposition(is_before) else { continue };
        let has_copied = line.copied.is_some();
        message.call.call = wait;
        if !has_copied {
            continue;
        }
        let call = &mut calls[wait];
        let arrival = action.start.min(call.end);
        if message.direction == Direction::In && arrival > call.start {
            call.blocked_until = call.blocked_until.max(Some(arrival));
            call.phase = Phase::Copying;
        } else {
            mark_copying(call);
        }
    }
    // The rest of a message that arrived in several parts.
    for calls in threads.iter_mut().map(|thread| &mut thread.calls) {
        for index in 0..calls.len() {
            let line = &calls[index];
            let is_input = line.copied.is_some_and(|(direction, _)| direction == Direction::In);
            if !line.from_log || !is_input {
                continue;
            }
            let wait = calls[..index].iter().rposition(|call| is_completion_wait(&call.name));
            if let Some(wait) = wait {
                mark_copying(&mut calls[wait]);
            }
        }
    }
    find_eventfd_reads(timeline);
}

/// A wait that was too short to be blocked spent its time copying.
fn mark_copying(call: &mut Call) {
    if call.end - call.start < BLOCKED && call.blocked_until.is_none() {
        call.phase = Phase::Copying;
    }
}

/// Finds the waits that ended because another thread wrote to an eventfd, which the kernel reads.
fn find_eventfd_reads(timeline: &mut Timeline) {
    for CallId { thread, call } in timeline.call_ids(|call| call.label == "write(eventfd)") {
        let written = timeline.threads[thread].calls[call].start;
        let mut calls = timeline.threads.iter_mut().flat_map(|thread| &mut thread.calls);
        let next = calls.find(|call| is_completion_wait(&call.name) && call.end > written);
        let Some(call) = next.filter(|call| call.phase == Phase::Waiting) else { continue };
        "= eventfd".clone_into(&mut call.outcome);
        if call.start > written {
            call.phase = Phase::Neither;
        }
    }
}
