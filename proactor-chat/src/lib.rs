//! The workers of a Proactor: they are given reads that are complete, and handle them.
//!
//! Who completes the reads, they cannot tell: `proactor-chat-simulated` does it with epoll, and
//! `proactor-chat-uring` has the kernel do it. These are the workers of both. There is no socket in
//! here, and no call of read or write: that is the pattern.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{Effects, Id, READ, Room, UNDER_WAY};
use common::lock;
use log::trace;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How many there are. One lock guards the room: more of them would wait for one another.
const WORKERS: usize = 2;

/// What an event is about that is not about a client: their ids count up from 0.
pub const LISTENER: u64 = u64::MAX;
/// As [`LISTENER`]: SIGINT or SIGTERM has come.
pub const STOP: u64 = u64::MAX - 1;
/// As [`LISTENER`]: the workers have answers.
pub const ANSWERS: u64 = u64::MAX - 2;

/// A read that is complete: the bytes, none at the end of the input, or why the client is lost.
pub type Read = io::Result<Vec<u8>>;

/// What workers and main thread share. Nobody holds both locks, and nobody makes a system call that
/// can block with one of them held: so there is no order of locks to get wrong, and the main thread
/// waits for a worker no longer than one takes to apply the rules to one read.
pub struct Workers {
    /// The request queue. Who fills it sees to it that a client has one read in it or under way:
    /// else two workers might handle them in the wrong order.
    reads: Mutex<VecDeque<(Id, Read)>>,
    some: Condvar,
    chat: Mutex<Chat>,
    answered: EventFd,
    /// Bytes that have been read, and not been taken back as answers.
    under_way: AtomicUsize,
}

/// The room, and the answers to what the workers have handled.
struct Chat {
    room: Room,
    effects: Effects,
    handled: Vec<(Id, Vec<u8>)>,
}

impl Workers {
    /// Starts them; they sleep until there is something to handle, and end with the process.
    ///
    /// # Errors
    /// Where the process is out of descriptors or threads.
    pub fn start(room: Room) -> io::Result<Arc<Self>> {
        let workers = Arc::new(Self {
            reads: Mutex::default(),
            some: Condvar::new(),
            chat: Mutex::new(Chat { room, effects: Effects::default(), handled: Vec::new() }),
            answered: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            under_way: AtomicUsize::new(0),
        });
        for n in 1..=WORKERS {
            let workers = Arc::clone(&workers);
            thread::Builder::new().name(format!("worker-{n}")).spawn(move || workers.work())?;
        }
        Ok(workers)
    }

    /// For the main thread: may more be read and handled, before it has written what follows from
    /// the answers?
    pub fn want_more(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) + READ <= UNDER_WAY
    }

    /// For the main thread: puts a completed read into the queue (3).
    pub fn handle(&self, id: Id, read: Read) {
        self.under_way.fetch_add(read.as_ref().map_or(0, Vec::len), Ordering::Relaxed);
        lock(&self.reads).push_back((id, read));
        self.some.notify_one();
    }

    fn work(&self) {
        loop {
            let (id, read) = self.next();
            match &read {
                Ok(bytes) => trace!("handle: {} bytes of {id}", bytes.len()),
                Err(error) => trace!("handle: {id} is lost: {error}"),
            }
            let (now, mut chat) = (Instant::now(), lock(&self.chat));
            let Chat { room, effects, handled } = &mut *chat;
            match &read {
                Ok(bytes) if bytes.is_empty() => room.end(id, now, effects),
                Ok(bytes) => room.input(id, bytes, now, effects), // (4)
                Err(_) => room.leave(id, effects),
            }
            handled.push((id, read.unwrap_or_default()));
            let first = handled.len() == 1;
            drop(chat);
            if first {
                // This fails only where its counter overflows, after 2^64 times.
                let _ = self.answered.write(1);
            }
        }
    }

    fn next(&self) -> (Id, Read) {
        let mut reads = lock(&self.reads);
        loop {
            match reads.pop_front() {
                Some(read) => return read,
                None => reads = self.some.wait(reads).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// For the main thread: written to, once, when there are answers; to be watched for its edges,
    /// so that nobody has to read it.
    pub fn answered(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }

    /// For the main thread: takes all answers (5), and those to the clock, and gives back the
    /// buffers of the reads that are handled.
    pub fn answers(&self, effects: &mut Effects) -> Vec<(Id, Vec<u8>)> {
        let (now, mut chat) = (Instant::now(), lock(&self.chat));
        chat.room.expire(now, effects);
        effects.write.append(&mut chat.effects.write);
        effects.close.append(&mut chat.effects.close);
        let handled = mem::take(&mut chat.handled);
        drop(chat);
        let bytes = handled.iter().map(|(_, bytes)| bytes.len()).sum();
        self.under_way.fetch_sub(bytes, Ordering::Relaxed);
        handled
    }

    /// For the main thread: how long it may wait, until it is time for [`Workers::answers`], or for
    /// what it has in mind itself.
    pub fn time_left(&self, own: Option<Instant>) -> Option<Duration> {
        let expiry = self.room(|room| room.next_expiry());
        [expiry, own].into_iter().flatten().min().map(|first| first - Instant::now())
    }

    /// For the main thread: the room, for one call.
    pub fn room<T>(&self, call: impl FnOnce(&mut Room) -> T) -> T {
        call(&mut lock(&self.chat).room)
    }
}
