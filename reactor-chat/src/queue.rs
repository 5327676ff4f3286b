//! The request queue: what the main thread and the workers have to say to each other.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use common::chat::{READ, UNDER_WAY};
use polling::{Event, Events, Poller};

use crate::{TIMER, lock};

/// Its one lock is held for moments, and never while a thread copies, handles or waits.
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    workers: usize,
    /// Where the main thread waits.
    poller: &'static Poller,
}

/// Both parts are short: interest is one-shot, so a connection has two requests in them at most.
struct State {
    /// Requests that bring lines into the room: to read, to accept, to look at the time.
    incoming: VecDeque<Event>,
    /// Requests that take lines out of it.
    outgoing: VecDeque<Event>,
    /// How much more may come in before all of it has been offered to all sockets. Without this, a
    /// worker that is held up in the middle of its write, while the others read on and on, has the
    /// room drop a client that does read.
    budget: usize,
    sleeping: usize,
    alarm: Option<Instant>,
}

impl Queue {
    pub fn new(workers: usize, poller: &'static Poller) -> Self {
        let (incoming, outgoing) = (VecDeque::new(), VecDeque::new());
        let state = State { incoming, outgoing, budget: UNDER_WAY, sleeping: 0, alarm: None };
        Self { state: Mutex::new(state), filled: Condvar::new(), workers, poller }
    }

    /// Main: puts what is ready into the queue, and the timer if it is time; wakes as many workers
    /// as that needs, if they sleep.
    pub fn put(&self, ready: &Events) {
        let mut state = lock(&self.state);
        for event in ready.iter() {
            let part = if event.writable { &mut state.outgoing } else { &mut state.incoming };
            part.push_back(event);
        }
        if state.alarm.is_some_and(|alarm| alarm <= Instant::now()) {
            state.alarm = None;
            state.incoming.push_back(Event::none(TIMER));
        }
        // No worker has anything in hand, and nobody's lines can be written: all is offered.
        if state.sleeping == self.workers && state.outgoing.is_empty() {
            state.budget = UNDER_WAY;
        }
        let incoming = if state.budget < READ { 0 } else { state.incoming.len() };
        let wake = state.sleeping.min(incoming + state.outgoing.len());
        drop(state);
        for _ in 0..wake {
            self.filled.notify_one();
        }
    }

    /// Workers: takes a request; sleeps until there is one.
    pub fn take(&self) -> Event {
        let mut state = lock(&self.state);
        loop {
            // What comes in, first: the more lines are there, the more go out in one write.
            if state.budget >= READ {
                if let Some(request) = state.incoming.pop_front() {
                    state.budget -= READ;
                    return request;
                }
            }
            if let Some(request) = state.outgoing.pop_front() {
                return request;
            }
            state.sleeping += 1;
            if state.sleeping == self.workers && !state.incoming.is_empty() {
                // The budget is spent. The main thread, woken, finds what is left to be written;
                // or nothing, and renews it.
                self.wake_main();
            }
            state = self.filled.wait(state).expect(crate::NO_PANIC);
            state.sleeping -= 1;
        }
    }

    /// Workers: less came in than the request was taken for.
    pub fn give_back(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.budget = (state.budget + bytes).min(UNDER_WAY);
    }

    /// Workers: has a timer event come at `alarm`, or earlier.
    pub fn set_alarm(&self, alarm: Instant) {
        let mut state = lock(&self.state);
        if state.alarm.is_none_or(|earlier| alarm < earlier) {
            state.alarm = Some(alarm);
            self.wake_main();
        }
    }

    /// Main: when the timer event is due.
    pub fn alarm(&self) -> Option<Instant> {
        lock(&self.state).alarm
    }

    fn wake_main(&self) {
        // It adds to an eventfd, which neither blocks nor, with one call a wait, overflows.
        let _ = self.poller.notify();
    }
}
