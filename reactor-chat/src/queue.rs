//! The request queue: what the main thread and the workers have to say to each other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::chat::{READ, UNDER_WAY};
use common::lock;
use polling::{Events, Poller};

use crate::TIMER;

/// What a worker is asked for, and the key of whom it is about.
pub enum Request {
    /// To read; or to accept, or to look at the time. All of these bring lines into the room.
    Read(usize),
    /// To write, which takes lines out of it.
    Write(usize),
}

/// Its one lock is held for moments, and never while a thread copies, handles or waits.
pub struct Queue {
    state: Mutex<State>,
    /// Wakes a worker.
    filled: Condvar,
    workers: usize,
    /// Where the main thread waits.
    poller: &'static Poller,
}

#[derive(Default)]
struct State {
    reads: VecDeque<usize>,
    /// What is in `reads`, each once, so that they stay as few as the clients: one that waits here
    /// is registered again whenever somebody has a line for it, and reported again.
    reading: BTreeSet<usize>,
    writes: VecDeque<usize>,
    /// Bytes that may be read before all that was read has been offered to all sockets. Otherwise,
    /// while one worker is held up in the middle of a write and the others read on and on, the room
    /// would drop a client that does read.
    budget: usize,
    /// Workers that have nothing in hand.
    sleeping: usize,
    /// When the timer event is due.
    alarm: Option<Instant>,
}

impl Queue {
    pub fn new(workers: usize, poller: &'static Poller) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), workers, poller }
    }

    /// Main: how long to wait at most.
    pub fn timeout(&self) -> Option<Duration> {
        lock(&self.state).alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()))
    }

    /// Main: puts what is ready into the queue, and wakes as many workers as that takes.
    pub fn put(&self, ready: &Events) {
        let mut state = lock(&self.state);
        for event in ready.iter() {
            // A lost connection is ready for everything, for ever: it is read from, which ends it.
            let lost = event.is_interrupt() || event.is_err() == Some(true);
            if event.writable && !lost {
                // If it is readable too, that is reported again when it waits for nothing else.
                state.writes.push_back(event.key);
            } else {
                state.put_read(event.key);
            }
        }
        if state.alarm.is_some_and(|alarm| alarm <= Instant::now()) {
            state.alarm = None;
            state.put_read(TIMER);
        }
        // No worker has anything in hand, and nobody's lines can be written: all is offered.
        if state.sleeping == self.workers && state.writes.is_empty() {
            state.budget = UNDER_WAY;
        }
        let requests = state.writes.len() + if state.budget < READ { 0 } else { state.reads.len() };
        let wake = requests.min(state.sleeping);
        drop(state);
        for _ in 0..wake {
            self.filled.notify_one();
        }
    }

    /// Worker: takes a request; sleeps until there is one.
    pub fn take(&self) -> Request {
        let mut state = lock(&self.state);
        loop {
            // Reading comes first: the more lines there are, the more go out in one write.
            if let Some(key) = state.take_read() {
                return Request::Read(key);
            }
            if let Some(key) = state.writes.pop_front() {
                return Request::Write(key);
            }
            state.sleeping += 1;
            if state.sleeping == self.workers && !state.reads.is_empty() {
                // The budget is spent. The main thread sees what is still to be written; if there
                // is nothing, it renews the budget.
                self.wake_main();
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
    }

    /// Worker: a request to read brought so much less than it could have.
    pub fn give_back(&self, bytes: usize) {
        lock(&self.state).budget += bytes;
    }

    /// Worker: has a timer event come at `alarm`, if none comes earlier.
    pub fn set_alarm(&self, alarm: Instant) {
        let mut state = lock(&self.state);
        if state.alarm.is_none_or(|earlier| alarm < earlier) {
            state.alarm = Some(alarm);
            self.wake_main();
        }
    }

    fn wake_main(&self) {
        // It adds 1 to an eventfd: that does not block, and fails only near 2⁶⁴.
        let _ = self.poller.notify();
    }
}

impl State {
    fn put_read(&mut self, key: usize) {
        if self.reading.insert(key) {
            self.reads.push_back(key);
        }
    }

    fn take_read(&mut self) -> Option<usize> {
        let budget = self.budget.checked_sub(READ)?;
        let key = self.reads.pop_front()?;
        self.reading.remove(&key);
        self.budget = budget;
        Some(key)
    }
}
