//! Finds calls that repeat those before them, so that a figure can show one iteration of a loop
//! and the number of the others.

use std::ops::Range;

use crate::call::Call;
use crate::strace::Nanos;

/// A call that took this long is shown on its own.
const LONG: Nanos = 1_000_000;
/// The longest iteration: a non-blocking server tries its listener and each of its clients.
const MAX_PERIOD: usize = 6;

/// What is shown of a thread's calls: a single call, or a number of iterations.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Call(usize),
    Repeated { calls: Range<usize>, times: usize },
}

impl Item {
    /// The index of its first call.
    pub fn first(&self) -> usize {
        match self {
            Self::Call(call) => *call,
            Self::Repeated { calls, .. } => calls.start,
        }
    }
}

/// Groups the calls that end after `from` and begin before `to`.
pub fn items(calls: &[Call], from: Nanos, to: Nanos) -> Vec<Item> {
    let end = calls.partition_point(|call| call.start < to);
    let mut at = calls.iter().position(|call| call.end > from).unwrap_or(end);
    let mut items = Vec::new();
    while at < end {
        let (period, times) = repetition(&calls[at..end]);
        if times >= 3 && period * times >= 6 {
            items.extend((at..at + period).map(Item::Call));
            let calls = at + period..at + period * times;
            items.push(Item::Repeated { calls, times: times - 1 });
            at += period * times;
        } else {
            items.push(Item::Call(at));
            at += 1;
        }
    }
    items
}

/// Returns how many of the first calls form an iteration, and how many iterations there are.
fn repetition(calls: &[Call]) -> (usize, usize) {
    // A call that returned EAGAIN did not block. If it took long, its thread was not running.
    let is_short =
        |call: &Call| (call.would_block || call.end - call.start < LONG) && call.step.is_none();
    let is_same = |(next, before): &(&Call, &Call)| {
        next.label == before.label
            && next.would_block == before.would_block
            && next.phase == before.phase
            && is_short(next)
            && is_short(before)
    };
    let times = |period: usize| {
        let next = calls.get(period..).unwrap_or_default();
        1 + next.iter().zip(calls).take_while(is_same).count() / period
    };
    let candidates =
        (1..=MAX_PERIOD).map(|period| (period, times(period))).filter(|(_, times)| *times > 1);
    // The one that covers most calls; of several, the one with the shortest iteration.
    candidates.rev().max_by_key(|(period, times)| period * times).unwrap_or((1, 1))
}

/// The label of repeated calls.
pub fn label(times: usize) -> String {
    if times == 1 { "… once more".to_owned() } else { format!("… {times} more times") }
}
