//! Which thread woke which: by a futex, a socket pair or an eventfd.

use crate::call::{Call, CallId, Phase};
use crate::strace::leading_number;
use crate::syscalls::{Direction, copy_direction};
use crate::timeline::{Timeline, Wake};

pub fn find(timeline: &mut Timeline) {
    let mut wakes = futex_wakes(timeline);
    for wake in &wakes {
        timeline.call_mut(wake.by).minor = false;
    }
    wakes.extend(pair_wakes(timeline));
    wakes.extend(eventfd_wakes(timeline));
    timeline.wakes = wakes;
}

fn futex_wakes(timeline: &Timeline) -> Vec<Wake> {
    let mut sleeps = timeline.call_ids(|call| {
        call.name == "futex" && call.phase == Phase::Waiting && call.result == "0"
    });
    let mut callers =
        timeline.call_ids(|call| call.name == "futex" && call.args.contains("FUTEX_WAKE"));
    sleeps.sort_by_key(|&id| timeline.call(id).end);
    callers.sort_by_key(|&id| timeline.call(id).start);
    let mut wakes = Vec::new();
    for by in callers {
        let call = timeline.call(by);
        for _ in 0..leading_number(&call.result).unwrap_or(0) {
            // The kernel does not say which of several sleepers it woke. We take the one that ran
            // first.
            let woken = sleeps.iter().position(|&id| {
                let sleep = timeline.call(id);
                let overlap = sleep.start < call.end && call.start < sleep.end;
                let same_futex = sleep.futex_address() == call.futex_address();
                id.thread != by.thread && overlap && same_futex
            });
            let woken = woken.map(|index| sleeps.remove(index));
            if let Some(woken) = woken.filter(|&id| !timeline.call(id).minor) {
                wakes.push(Wake { by, woken });
            }
        }
    }
    wakes
}

/// Finds the write that each read from a socket pair has returned: the last one that had already
/// been written when the read began, or else the first one during the read.
fn pair_wakes(timeline: &mut Timeline) -> Vec<Wake> {
    let direction = |call: &Call| call.pair.as_ref().and_then(|_| copy_direction(&call.name));
    let reads = timeline
        .call_ids(|call| direction(call) == Some(Direction::In) && !call.result.starts_with('?'));
    let mut writes = timeline.call_ids(|call| direction(call) == Some(Direction::Out));
    writes.sort_by_key(|&id| timeline.call(id).start);
    let mut wakes = Vec::new();
    for (index, &woken) in reads.iter().enumerate() {
        let read = timeline.call(woken);
        let mut earlier = reads[..index].iter().rev().map(|&id| timeline.call(id));
        let previous = earlier.find(|earlier| earlier.pair == read.pair);
        let previous_end = previous.map_or(0, |previous| previous.end);
        let is_new = |&id: &CallId| {
            let write = timeline.call(id);
            write.pair == read.pair && write.start > previous_end && write.start < read.end
        };
        let new: Vec<CallId> = writes.iter().copied().filter(is_new).collect();
        let before = new.iter().rfind(|&&id| timeline.call(id).start < read.start);
        let by = before.or(new.first()).filter(|by| by.thread != woken.thread);
        let Some(&by) = by else { continue };
        if before.is_none() {
            let read = timeline.call_mut(woken);
            read.phase = Phase::Waiting;
            read.blocked_until = None;
        }
        wakes.push(Wake { by, woken });
    }
    wakes
}

fn eventfd_wakes(timeline: &Timeline) -> Vec<Wake> {
    let mut wakes = Vec::new();
    for by in timeline.call_ids(|call| call.label == "write(eventfd)") {
        let written = timeline.call(by).start;
        let woken = timeline.call_ids(|call| {
            let waited = call.phase == Phase::Waiting && call.outcome.contains("eventfd");
            waited && (call.start..call.end).contains(&written)
        });
        wakes.extend(woken.first().map(|&woken| Wake { by, woken }));
    }
    wakes
}
