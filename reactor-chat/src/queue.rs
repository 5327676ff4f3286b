//! The request queue: how the main thread passes events to the workers.
//!
//! Three kinds of requests wait in it: to read, to write, and to compute. Workers take reads first,
//! because the more lines have been read, the more of them one write can take. Two rules keep this
//! fair:
//!
//! - **Input has a budget**, [`INPUT_BUDGET`]. Without a budget, three workers could read so much
//!   before they write that the room would take a client for one that does not read. When the budget
//!   is used up, workers only write. The main thread renews it when no worker reads or writes, and no
//!   socket with pending output is writable: then all output has been written, or its socket is full.
//!   A computation needs budget too, because the rest of its client's input is processed after it.
//! - **One worker does not compute.** So reads and writes never wait for computations.

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
    /// Write pending output to the client with this key, which frees memory.
    Write(usize),
    Compute(Job),
}

/// What a worker was busy with.
#[derive(Clone, Copy)]
pub enum Work {
    Copy,
    Computation,
}

/// A computation that a line of a client asked for.
pub struct Job {
    pub connection: Arc<Connection>,
    pub computation: Computation,
    /// Input that arrived in the same read and is not processed yet. `None` after the client's FIN.
    pub rest: Option<Vec<u8>>,
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
    writes: VecDeque<usize>,
    jobs: VecDeque<Job>,
    /// Bytes that may still be read before all output has been offered to the sockets.
    input_budget: usize,
    /// Workers that read or write.
    copying: usize,
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

    /// Main thread: how long it may wait.
    pub fn timeout(&self) -> Option<Duration> {
        let deadline = lock(&self.state).deadline?;
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
        if state.copying == 0 && state.writes.is_empty() {
            state.input_budget = INPUT_BUDGET;
        }
        let inputs = state.reads.len() + state.jobs.len();
        let requests = inputs.min(state.input_budget / READ_SIZE) + state.writes.len();
        let wake = requests.min(state.sleeping);
        drop(state);
        for _ in 0..wake {
            self.not_empty.notify_one();
        }
    }

    /// Worker: reports what it has finished, and takes the next request. Sleeps until there is one.
    pub fn next(&self, finished: Option<Work>) -> Request {
        let mut state = lock(&self.state);
        match finished {
            Some(Work::Copy) => state.copying -= 1,
            Some(Work::Computation) => state.computing -= 1,
            None => {}
        }
        loop {
            if let Some(request) = state.take_read_or_write() {
                return request;
            }
            if let Some(request) = state.take_job(self.workers - 1) {
                return request;
            }
            if state.copying == 0 && state.waits_for_budget() {
                // The main thread knows whether sockets are writable, and renews the budget if none
                // is.
                self.wake_main();
            }
            state.sleeping += 1;
            state = self.not_empty.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
    }

    /// Worker: returns the part of the budget that a read or a computation did not use.
    pub fn return_budget(&self, bytes: usize) {
        lock(&self.state).input_budget += bytes;
    }

    /// Worker: takes from the budget what the input costs beyond its bytes.
    pub fn charge(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.input_budget = state.input_budget.saturating_sub(bytes);
    }

    /// Worker: queues a computation behind those of other clients.
    pub fn compute(&self, job: Job) {
        lock(&self.state).jobs.push_back(job);
        self.not_empty.notify_one();
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

    fn has_budget(&self) -> bool {
        self.input_budget >= READ_SIZE
    }

    fn waits_for_budget(&self) -> bool {
        let has_input = !self.reads.is_empty() || !self.jobs.is_empty();
        has_input && !self.has_budget()
    }

    fn take_read_or_write(&mut self) -> Option<Request> {
        if self.has_budget() {
            if let Some(key) = self.reads.pop_front() {
                self.queued_reads.remove(&key);
                self.input_budget -= READ_SIZE;
                self.copying += 1;
                return Some(Request::Read(key));
            }
        }
        let key = self.writes.pop_front()?;
        self.copying += 1;
        Some(Request::Write(key))
    }

    fn take_job(&mut self, most: usize) -> Option<Request> {
        if self.computing == most || !self.has_budget() {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.input_budget -= READ_SIZE;
        self.computing += 1;
        Some(Request::Compute(job))
    }
}
