//! What happened between the clients and the threads of a server: the calls with their phases,
//! the messages, the wake-ups and the signals.

use crate::call::{Call, CallId, Thread};
use crate::servers::Server;
use crate::session::{Action, Session};
use crate::strace::Nanos;
use crate::syscalls::Direction;

/// Bytes, a connection or the end of one, on the way between a client's action and the server's
/// call.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub client: usize,
    /// Index of the client's action.
    pub action: usize,
    pub call: CallId,
    pub direction: Direction,
}

/// A call that woke another thread, or wrote what another thread read.
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    pub by: CallId,
    pub woken: CallId,
}

#[derive(Debug)]
pub struct Timeline {
    pub server: Server,
    pub session: Session,
    pub threads: Vec<Thread>,
    pub messages: Vec<Message>,
    pub wakes: Vec<Wake>,
}

impl Timeline {
    pub fn call(&self, id: CallId) -> &Call {
        &self.threads[id.thread].calls[id.call]
    }

    pub fn call_mut(&mut self, id: CallId) -> &mut Call {
        &mut self.threads[id.thread].calls[id.call]
    }

    /// The calls of all threads.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.threads.iter().flat_map(|thread| &thread.calls)
    }

    /// The calls of all threads that pass `test`.
    pub fn call_ids(&self, test: impl Fn(&Call) -> bool) -> Vec<CallId> {
        let mut ids = Vec::new();
        for (thread, calls) in self.threads.iter().map(|thread| &thread.calls).enumerate() {
            let passing = calls.iter().enumerate().filter(|(_, call)| test(call));
            ids.extend(passing.map(|(call, _)| CallId { thread, call }));
        }
        ids
    }

    /// A measure of how busy the machine was. The less, the better: the session was short, and in
    /// each part every call came soon after the action that caused it.
    pub fn delay(&self) -> Nanos {
        let latest_call = |part: usize| {
            let here = self.session.parts[part].start..self.session.part_end(part);
            let delay = |call: &Call| {
                let before = (self.session.actions().map(Action::at))
                    .filter(|&at| here.start <= at && at <= call.start)
                    .max();
                before.map_or(0, |before| call.start - before)
            };
            let begun = self.calls().filter(|call| !call.would_block && here.contains(&call.start));
            begun.map(delay).max().unwrap_or(0)
        };
        let parts = 0..self.session.parts.len();
        self.session.delay() + parts.map(latest_call).sum::<Nanos>()
    }
}
