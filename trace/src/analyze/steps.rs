//! Which calls are steps of the server's pattern.

use std::collections::HashSet;

use crate::call::{CallId, Phase, Signal, Thread};
use crate::timeline::Timeline;

pub fn number(timeline: &mut Timeline) {
    // A thread sleeps long at a futex where it waits for work, but never at a lock.
    let sleeps = timeline
        .call_ids(|call| call.name == "futex" && call.phase == Phase::Waiting && !call.minor);
    let work_queues: HashSet<String> =
        sleeps.into_iter().map(|id| timeline.call(id).futex_address().to_owned()).collect();
    for thread in 0..timeline.threads.len() {
        let mut last_wait = String::new();
        for index in 0..timeline.threads[thread].calls.len() {
            let id = CallId { thread, call: index };
            let call = timeline.call(id);
            if call.ends_wait() {
                last_wait = format!("{} {}", call.args, call.outcome);
            }
            let role = &timeline.threads[thread].role;
            let step = timeline.server.notes.steps.iter().find(|step| {
                role.starts_with(step.thread)
                    && call.name == step.call
                    && !call.would_block
                    && (!call.minor || call.name != "epoll_ctl")
                    && (call.name != "futex" || work_queues.contains(call.futex_address()))
                    && (call.args.contains(step.with) || call.outcome.contains(step.with))
                    && (last_wait.contains(step.after) || cause(timeline, id).contains(step.after))
            });
            let call = timeline.call_mut(id);
            call.step = step;
            // A wake-up is a step even if no thread sleeps.
            call.minor &= step.is_none();
        }
    }
}

/// Returns the name of the read or write that led to a call: an earlier one of its thread or,
/// across signals and wake-ups, of another thread. Returns an empty text if there is none.
fn cause(timeline: &Timeline, id: CallId) -> &str {
    let mut id = id;
    loop {
        let Thread { calls, signals, .. } = &timeline.threads[id.thread];
        let call = &calls[id.call];
        if call.copied.is_some() {
            return &call.name;
        }
        let wake = timeline.wakes.iter().find(|wake| wake.woken == id);
        let came_just_before = |signal: &&Signal| {
            let before = id.call.checked_sub(1).map_or(0, |before| calls[before].end);
            (before..=call.start).contains(&signal.at)
        };
        let sender = signals.iter().rfind(came_just_before).and_then(|signal| signal.sender);
        id = match (wake.map(|wake| wake.by), sender) {
            (Some(by), _) if call.pair.is_some() => by,
            (_, Some(sender)) => sender,
            _ if id.call == 0 || calls[id.call - 1].ends_wait() => return "",
            _ => CallId { call: id.call - 1, ..id },
        };
    }
}
