//! The request queue: how the main thread passes events to the workers.
//!
//! Three kinds of requests wait in it: to read, to write, and to compute. Workers take reads first,
//! because the more lines have been read, the more of them one write can take. Two rules keep this
//! fair:
//!
//! - **Reads have a budget**, [`INPUT_BUDGET`]. Without a budget, three workers could read so much
//!   before they write that the room would take a client for one that does not read. When the
//!   budget is used up, workers write and compute, and do not read. The main thread renews it after
//!   a wait that reports no writable socket, if no worker read or wrote when the wait began or
//!   during it. Then all output has been written, or is for sockets that are full.
//! - **At most two of the three workers compute at a time.** So reads and writes never wait for
//!   computations.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::chat::{Computation, INPUT_BUDGET, READ_SIZE};
use common::lock;
use polling::{Events, Poller};

use crate::TIMER;
use crate::connection::Connection;

/// What a worker is to do.
pub enum Request {
    /// Read from the client with this key, or accept, or handle a timeout. All of these can produce
    /// lines, which take memory.
    Read(usize),
    /// Process the rest of a read, after a computation. This can produce lines too.
    Process(Rest),
    /// Write pending output to the client with this key, which frees memory.
    Write(usize),
    Compute(Job),
}

/// The kind of a request.
#[derive(Clone, Copy)]
pub enum Work {
    /// A [`Request::Read`] or a [`Request::Process`]. It has reserved [`READ_SIZE`] of the budget.
    Input,
    Write,
    Computation,
}

/// What a worker has finished.
#[derive(Clone, Copy)]
pub struct Finished {
    pub work: Work,
    /// How much of the reserved budget it has returned ([`Queue::return_budget`]).
    pub returned: usize,
    /// What it cost of the budget.
    pub cost: usize,
}

/// A computation that a line of a client asked for.
pub struct Job {
    pub connection: Arc<Connection>,
    pub computation: Computation,
    pub rest: Option<Vec<u8>>,
}

/// Input of a client that arrived in the same read as a computation, and is not processed yet.
pub struct Rest {
    pub connection: Arc<Connection>,
    /// `None` is the client's FIN.
    pub input: Option<Vec<u8>>,
}

/// Its lock is held for moments only, and never during a system call that can block.
pub struct Queue {
    state: Mutex<State>,
    not_empty: Condvar,
    workers: usize,
    /// What the main thread waits for.
    poller: &'static Poller,
}

#[derive(Default)]
struct State {
    reads: VecDeque<usize>,
    /// The same keys as in `reads`. A client can be reported as readable again while its request
    /// waits, because every `epoll_ctl(MOD)` can report it again. It is queued once.
    queued_reads: BTreeSet<usize>,
    rests: VecDeque<Rest>,
    writes: VecDeque<usize>,
    jobs: VecDeque<Job>,
    /// How much of the budget has been used or reserved since all output was last offered to the
    /// sockets.
    used: usize,
    /// Workers that are busy with a request other than a computation.
    copying: usize,
    /// A worker has taken such a request, or was busy with one, since the main thread began to
    /// wait.
    has_copied: bool,
    /// Workers that compute.
    computing: usize,
    /// Workers that wait for a request.
    sleeping: usize,
    /// When a timeout is due.
    deadline: Option<Instant>,
}

impl Queue {
    pub fn new(workers: usize, poller: &'static Poller) -> Self {
        Self { state: Mutex::default(), not_empty: Condvar::new(), workers, poller }
    }

    /// Main thread, before each wait: returns how long it may wait.
    pub fn timeout(&self) -> Option<Duration> {
        let mut state = lock(&self.state);
        state.has_copied = state.copying > 0;
        let is_used_up = state.used + READ_SIZE > INPUT_BUDGET;
        if is_used_up && state.has_input() && !state.has_copied && state.writes.is_empty() {
            return Some(Duration::ZERO); // only to learn whether sockets are writable
        }
        let deadline = state.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Main thread: queues a request for each event, and wakes the workers that can serve them.
    pub fn put(&self, events: &Events) {
        let mut state = lock(&self.state);
        for event in events.iter() {
            // A read reports what ended the connection.
            let failed = event.is_interrupt() || event.is_err() == Some(true);
            if event.writable && !failed {
                // If the socket is readable too, that is reported again after the write.
                state.writes.push_back(event.key);
            } else {
                state.put_read(event.key);
            }
        }
        if state.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            state.deadline = None;
            state.put_read(TIMER);
        }
        let is_complete = events.len() < events.capacity().get();
        if is_complete && !state.has_copied && state.writes.is_empty() {
            state.used = 0;
        }
        let inputs = state.reads.len() + state.rests.len();
        let inputs = inputs.min(INPUT_BUDGET.saturating_sub(state.used) / READ_SIZE);
        let requests = inputs + state.writes.len();
        let wake = requests.min(state.sleeping);
        drop(state);
        for _ in 0..wake {
            self.not_empty.notify_one();
        }
    }

    /// Worker: reports what it has finished, and takes the next request. Sleeps until there is one.
    pub fn next(&self, finished: Option<Finished>) -> Request {
        let mut state = lock(&self.state);
        if let Some(Finished { work, returned, cost }) = finished {
            state.used += cost;
            match work {
                Work::Input => {
                    state.copying -= 1;
                    state.used -= READ_SIZE - returned;
                }
                Work::Write => state.copying -= 1,
                Work::Computation => state.computing -= 1,
            }
        }
        loop {
            if let Some(request) = state.take_input().or_else(|| state.take_write()) {
                state.copying += 1;
                state.has_copied = true;
                return request;
            }
            if state.copying == 0 && state.has_input() {
                // Only the budget keeps this input waiting. The main thread learns whether sockets
                // are writable, and renews the budget if none is.
                self.wake_main();
            }
            if let Some(request) = state.take_job(self.workers - 1) {
                return request;
            }
            state.sleeping += 1;
            state = self.not_empty.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
    }

    /// Worker: returns the part of its reserved budget that a read does not need. A worker that
    /// asks for its next request can then read while this one processes. If only the budget kept
    /// input waiting, a sleeping worker is woken for it.
    pub fn return_budget(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.used -= bytes;
        let must_wake = state.may_take_input() && state.sleeping > 0;
        drop(state);
        if must_wake {
            self.not_empty.notify_one();
        }
    }

    /// Worker: queues a computation behind those of other clients.
    pub fn compute(&self, job: Job) {
        lock(&self.state).jobs.push_back(job);
        self.not_empty.notify_one();
    }

    /// Worker: queues the rest of a read, to be processed within the budget.
    pub fn process(&self, rest: Rest) {
        lock(&self.state).rests.push_back(rest); // this worker calls `next` in any case
    }

    /// Worker: asks for a request with the key [`TIMER`] at `deadline` or earlier.
    pub fn set_deadline(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        if state.deadline.is_none_or(|earlier| deadline < earlier) {
            state.deadline = Some(deadline);
            self.wake_main();
        }
    }

    fn wake_main(&self) {
        // It writes to an eventfd, which neither blocks nor fails in practice.
        let _ = self.poller.notify();
    }
}

impl State {
    fn put_read(&mut self, key: usize) {
        if self.queued_reads.insert(key) {
            self.reads.push_back(key);
        }
    }

    /// Returns whether a request waits that can produce lines.
    fn has_input(&self) -> bool {
        !self.reads.is_empty() || !self.rests.is_empty()
    }

    /// Returns whether such a request waits, and the budget allows it.
    fn may_take_input(&self) -> bool {
        self.used + READ_SIZE <= INPUT_BUDGET && self.has_input()
    }

    /// Takes a request that can produce lines, within the budget, and reserves [`READ_SIZE`] for
    /// it.
    fn take_input(&mut self) -> Option<Request> {
        if !self.may_take_input() {
            return None;
        }
        self.used += READ_SIZE;
        if let Some(rest) = self.rests.pop_front() {
            return Some(Request::Process(rest));
        }
        let key = self.reads.pop_front()?;
        self.queued_reads.remove(&key);
        Some(Request::Read(key))
    }

    fn take_write(&mut self) -> Option<Request> {
        self.writes.pop_front().map(Request::Write)
    }

    fn take_job(&mut self, most: usize) -> Option<Request> {
        if self.computing == most {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.computing += 1;
        Some(Request::Compute(job))
    }
}

#[cfg(test)]
mod tests;
