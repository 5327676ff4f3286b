//! Removes what ended before the session or began after it.

use std::collections::HashMap;

use crate::call::{CallId, Thread};
use crate::timeline::{Timeline, Wake};

pub fn to_session(timeline: &mut Timeline) {
    let start = timeline.session.start();
    let end = timeline.session.end;
    let mut kept: Vec<Thread> = Vec::new();
    let mut new_ids = HashMap::new();
    for (number, mut thread) in std::mem::take(&mut timeline.threads).into_iter().enumerate() {
        let mut calls = Vec::new();
        for (index, mut call) in thread.calls.into_iter().enumerate() {
            if call.end <= start || call.start >= end {
                continue;
            }
            if call.end > end {
                call.blocked_until = call.blocked_until.map(|until| until.min(end));
                call.end = end;
                call.outcome.clear(); // not yet known when the session ends
            }
            let old = CallId { thread: number, call: index };
            new_ids.insert(old, CallId { thread: kept.len(), call: calls.len() });
            calls.push(call);
        }
        thread.calls = calls;
        thread.signals.retain(|signal| (start..end).contains(&signal.at));
        if !thread.calls.is_empty() {
            kept.push(thread);
        }
    }
    timeline.threads = kept;

    let new_id = |old: CallId| new_ids.get(&old).copied();
    for signal in timeline.threads.iter_mut().flat_map(|thread| &mut thread.signals) {
        signal.sender = signal.sender.and_then(new_id);
    }
    let messages = std::mem::take(&mut timeline.messages);
    for mut message in messages {
        if let Some(call) = new_id(message.call) {
            message.call = call;
            timeline.messages.push(message);
        }
    }
    let wakes = std::mem::take(&mut timeline.wakes);
    for wake in wakes {
        if let (Some(by), Some(woken)) = (new_id(wake.by), new_id(wake.woken)) {
            timeline.wakes.push(Wake { by, woken });
        }
    }
}
