//! A thread of the server: its system calls, each with its phase, and its signals.

use crate::servers::Step;
use crate::strace::Nanos;
use crate::syscalls::{self, Direction};

/// A call that took longer than this has been blocked, if nothing else shows whether it was.
pub const BLOCKED: Nanos = 1_000_000;

/// What a thread does in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The thread is blocked until something happens.
    Waiting,
    /// Bytes are copied between the kernel and the process.
    Copying,
    /// The call returns at once, and belongs to neither phase.
    Neither,
}

/// A system call.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four facts that are independent of each other")]
pub struct Call {
    pub name: String,
    pub args: String,
    /// The text that strace printed after the `=`.
    pub result: String,
    pub start: Nanos,
    /// If the call did not return: the end of its thread or of the session.
    pub end: Nanos,
    /// The time until which the call was blocked, if it then did something else.
    pub blocked_until: Option<Nanos>,
    /// The phase of the call, or its second phase if it was blocked first.
    pub phase: Phase,
    /// The name of the call and its client, such as `recvfrom(A)`.
    pub label: String,
    /// The result in short, such as `= 6`.
    pub outcome: String,
    /// The call is bookkeeping: its label may be left out.
    pub minor: bool,
    /// The call returned EAGAIN.
    pub would_block: bool,
    /// The call would have blocked if nothing had been there.
    pub can_block: bool,
    pub client: Option<usize>,
    pub copied: Option<(Direction, u64)>,
    /// The socket pair that the call reads or writes. Threads send each other messages this way.
    pub pair: Option<String>,
    pub step: Option<&'static Step>,
    /// Not a system call: a line of the server's log, which reports what the kernel has done.
    pub from_log: bool,
}

/// The place of a call: the index of its thread, and its index among that thread's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    pub thread: usize,
    pub call: usize,
}

/// A signal that a thread received.
#[derive(Clone, Debug)]
pub struct Signal {
    pub name: String,
    pub at: Nanos,
    /// The call that sent it, if a thread of the server did.
    pub sender: Option<CallId>,
}

/// A thread or process of the server.
#[derive(Clone, Debug)]
pub struct Thread {
    pub tid: i32,
    /// Its name in the figures.
    pub role: String,
    pub born: Nanos,
    pub died: Option<Nanos>,
    /// In the order in which they began.
    pub calls: Vec<Call>,
    pub signals: Vec<Signal>,
}

impl Call {
    /// Corrects the times of the call, given that what it returned arrived at `time`.
    ///
    /// The times of strace are not exact: it prints when it sees a call begin, which is before the
    /// kernel does anything, and measures the duration from a later moment. A call can therefore
    /// seem to end before the event that ended it, or to copy bytes that were not yet sent.
    pub fn set_arrival(&mut self, time: Nanos) {
        if time <= self.start || self.phase == Phase::Waiting {
            return;
        }
        self.end = self.end.max(time);
        if self.can_block {
            self.blocked_until = Some(time);
        } else {
            self.start = time;
        }
    }

    /// Returns the phases in their order, each with its start and its end.
    pub fn phases(&self) -> Vec<(Phase, Nanos, Nanos)> {
        match self.blocked_until {
            None => vec![(self.phase, self.start, self.end)],
            Some(until) => vec![(Phase::Waiting, self.start, until), (self.phase, until, self.end)],
        }
    }

    /// Whether the thread waits in this call at `time`.
    pub fn waits_at(&self, time: Nanos) -> bool {
        let waits = |&(phase, from, to): &(Phase, Nanos, Nanos)| {
            phase == Phase::Waiting && from < time && time <= to
        };
        self.phases().iter().any(waits)
    }

    /// The phase in which the call spent most of its time.
    pub fn main_phase(&self) -> Phase {
        let longest = self.phases().into_iter().max_by_key(|(_, from, to)| to - from);
        longest.map_or(self.phase, |(phase, ..)| phase)
    }

    /// Whether what follows in the thread is a consequence of what this call returned.
    ///
    /// `futex` is left out: threads also use it for locks.
    pub fn ends_wait(&self) -> bool {
        syscalls::is_wait(&self.name) && self.name != "futex"
    }

    /// For a `futex`: the address of its word.
    pub fn futex_address(&self) -> &str {
        self.args.split(',').next().unwrap_or_default()
    }

    /// Whether the number of the step stands at the end of the call: the step is then not the
    /// wait, but what ended it.
    pub fn is_step_at_end(&self) -> bool {
        let depends_on_result = |step: &Step| !(step.with.is_empty() && step.after.is_empty());
        self.phase == Phase::Waiting && self.step.is_some_and(depends_on_result)
    }
}

impl Thread {
    /// Names the signal in the outcome of each sleep that a signal ended.
    pub fn name_interruptions(&mut self) {
        for index in 0..self.calls.len() {
            let next_call = self.calls.get(index + 1).map_or(Nanos::MAX, |next| next.start);
            let call = &mut self.calls[index];
            let interrupted = call.result.contains("ERESTART")
                || call.outcome == "EINTR"
                || call.outcome.is_empty();
            if call.phase == Phase::Waiting && interrupted {
                let next = self.signals.iter().find(|signal| signal.at >= call.end);
                if let Some(signal) = next.filter(|signal| signal.at <= next_call) {
                    call.outcome = format!("until {}", signal.name);
                }
            }
        }
    }
}
