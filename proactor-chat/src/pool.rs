//! The worker threads.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use common::chat::{Computation, Effects, INPUT_BUDGET, Id, Input, READ_SIZE, Room};
use common::lock;
use log::trace;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The number of workers. The rules of the room run under one lock, so more workers would wait for
/// each other. While one of them computes, the other one processes completions.
const WORKERS: usize = 2;

/// What the main thread and the workers share.
///
/// No thread holds both locks at once, or one of them during a call that can block. So the locks
/// cannot deadlock. The main thread waits for a worker at most as long as the rules take for one
/// read.
pub struct Pool {
    queue: Mutex<Queue>,
    not_empty: Condvar,
    pub chat: Mutex<Chat>,
    /// Notifies the main thread that `chat` has something for it.
    pub replied: EventFd,
}

/// What there is to do.
#[derive(Default)]
struct Queue {
    completions: VecDeque<(Id, Input)>,
    jobs: VecDeque<Job>,
    /// Workers that compute: at most `WORKERS - 1`, so completions do not wait for computations.
    computing: usize,
}

/// What a worker takes from the queue.
enum Work {
    Process(Id, Input),
    Compute(Job),
}

/// A computation that a line of a client asked for, and the input after this line.
struct Job {
    id: Id,
    computation: Computation,
    rest: Input,
}

/// The room, and what the workers have for the main thread.
pub struct Chat {
    pub room: Room,
    pub effects: Effects,
    /// Completions that have been processed.
    pub finished: Vec<(Id, Input)>,
    /// Completions that must be submitted again: what is left after a computation, or what the
    /// budget did not allow.
    pub to_submit_again: Vec<(Id, Input)>,
    /// Bytes of input taken from the queue since the main thread looked here.
    pub processed: usize,
    /// What these bytes cost of the budget. The cost can be higher than their number, and is known
    /// only after they are processed.
    pub charged: usize,
    /// The main thread has been notified, and has not looked here since.
    pub notified: bool,
}

impl Pool {
    /// Starts the workers. They end with the process.
    pub fn start(room: Room) -> io::Result<Arc<Self>> {
        let chat = Chat {
            room,
            effects: Effects::default(),
            finished: Vec::new(),
            to_submit_again: Vec::new(),
            processed: 0,
            charged: 0,
            notified: false,
        };
        let pool = Arc::new(Self {
            queue: Mutex::default(),
            not_empty: Condvar::new(),
            chat: Mutex::new(chat),
            replied: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        for number in 1..=WORKERS {
            let pool = Arc::clone(&pool);
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || pool.work())?;
        }
        Ok(pool)
    }

    /// Queues a completion.
    pub fn put(&self, id: Id, input: Input) {
        lock(&self.queue).completions.push_back((id, input));
        self.not_empty.notify_one();
    }

    /// A worker.
    fn work(&self) {
        loop {
            match self.next() {
                Work::Process(id, input) => self.process(id, input),
                Work::Compute(job) => self.compute(job),
            }
        }
    }

    /// Takes the next piece of work. Sleeps until there is one.
    fn next(&self) -> Work {
        let mut queue = lock(&self.queue);
        loop {
            if let Some((id, input)) = queue.completions.pop_front() {
                return Work::Process(id, input);
            }
            if queue.computing < WORKERS - 1 {
                if let Some(job) = queue.jobs.pop_front() {
                    queue.computing += 1;
                    return Work::Compute(job);
                }
            }
            queue = self.not_empty.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Passes a completion to the room: step (4) in `proactor-chat-simulated.rs`.
    fn process(&self, id: Id, mut input: Input) {
        let length = input.byte_count();
        trace!("process: {length} bytes of {id}");
        let mut chat = lock(&self.chat);
        chat.processed += length;
        if chat.charged + READ_SIZE > INPUT_BUDGET {
            chat.to_submit_again.push((id, input));
            return self.notify(chat);
        }
        let Chat { room, effects, charged, .. } = &mut *chat;
        let computation = room.process(id, &mut input, Instant::now(), effects);
        *charged += effects.take_charge(length - input.byte_count());
        let Some(computation) = computation else {
            chat.finished.push((id, input));
            return self.notify(chat);
        };
        self.notify(chat); // so that the lines before this one do not wait for the computation
        lock(&self.queue).jobs.push_back(Job { id, computation, rest: input });
        self.not_empty.notify_one();
    }

    /// Computes, with nothing locked. The rest of the input goes back to the main thread, which
    /// knows whether all output so far has been written.
    fn compute(&self, job: Job) {
        let result = job.computation.run();
        lock(&self.queue).computing -= 1;
        let mut chat = lock(&self.chat);
        let Chat { room, effects, to_submit_again, .. } = &mut *chat;
        room.reply(job.id, &result, effects);
        to_submit_again.push((job.id, job.rest));
        self.notify(chat);
    }

    /// Notifies the main thread, unless it has been notified and has not looked yet.
    fn notify(&self, mut chat: MutexGuard<'_, Chat>) {
        let is_first = !mem::replace(&mut chat.notified, true);
        drop(chat);
        if is_first {
            // It fails only if its counter overflows, after 2^64 calls.
            let _ = self.replied.write(1);
        }
    }
}
