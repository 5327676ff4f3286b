//! Calls that repeat the ones before them: of a thousand in vain the first round tells all.

use std::ops::Range;

use crate::story::Call;
use crate::strace::Nanos;

/// A call that took so long is an event of its own.
const LONG: Nanos = 1_000_000;
/// The longest round: a non-blocking server asks its listener and each of its clients.
const ROUND: usize = 6;

/// What is told of a thread's calls: one by one, or as many as repeat the ones before them.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    One(usize),
    Again { calls: Range<usize>, times: usize },
}

impl Item {
    /// Its first call.
    pub fn first(&self) -> usize {
        match self {
            Self::One(call) => *call,
            Self::Again { calls, .. } => calls.start,
        }
    }
}

/// The calls that are not over before `from` and begin before `to`.
pub fn items(calls: &[Call], from: Nanos, to: Nanos) -> Vec<Item> {
    let end = calls.partition_point(|call| call.start < to);
    let mut at = calls.iter().position(|call| call.end > from).unwrap_or(end);
    let mut items = Vec::new();
    while at < end {
        let (round, times) = repetition(&calls[at..end]);
        if times >= 3 && round * times >= 6 {
            items.extend((at..at + round).map(Item::One));
            items.push(Item::Again { calls: at + round..at + round * times, times: times - 1 });
            at += round * times;
        } else {
            items.push(Item::One(at));
            at += 1;
        }
    }
    items
}

/// How many of the first calls make a round that is repeated, and how often it comes in all.
fn repetition(calls: &[Call]) -> (usize, usize) {
    // In vain nobody waits: such a call is only long where its thread was held up in it.
    let short = |call: &Call| (call.vain || call.end - call.start < LONG) && call.step.is_none();
    let alike = |(next, before): &(&Call, &Call)| {
        let same = next.title == before.title && next.vain == before.vain;
        same && next.phase == before.phase && short(next) && short(before)
    };
    let times = |round: usize| {
        let next = calls.get(round..).unwrap_or_default();
        1 + next.iter().zip(calls).take_while(alike).count() / round
    };
    let rounds = (1..=ROUND).map(|round| (round, times(round))).filter(|(_, times)| *times > 1);
    // What covers most; of those, the shortest round.
    rounds.rev().max_by_key(|(round, times)| round * times).unwrap_or((1, 1))
}

/// In words.
pub fn again(times: usize) -> String {
    if times == 1 { "… once more".to_owned() } else { format!("… {times} times more") }
}
