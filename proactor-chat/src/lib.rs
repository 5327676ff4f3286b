//! The workers of a Proactor: they get input that has been read, and process it.
//!
//! They do not know which thread, or whether the kernel, completed the read. In `proactor-chat-simulated`, the main thread does it
//! with epoll. In `proactor-chat-uring`, the kernel does it. The workers of both are the same. They
//! have no socket, and call neither read nor write: that is the pattern.
//!
//! The life of a completed read:
//! 1. The main thread hands over a completed read ([`Workers::submit`]).
//! 2. A worker passes the bytes to the room (`pool.rs`), and notifies the main thread.
//! 3. The main thread takes what the workers have done ([`Workers::take_replies`]). It writes
//!    output, and then reads more from this client.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::chat::{Effects, INPUT_BUDGET, Id, Input, READ_SIZE, Room};
use common::lock;
use log::info;

mod in_flight;
mod pool;
pub use in_flight::Connection;
use pool::Pool;

/// User data of events that are not about a client. The ids of clients count up from 0.
pub const LISTENER: u64 = u64::MAX;
/// SIGINT or SIGTERM has arrived.
pub const STOP: u64 = u64::MAX - 1;
/// The workers have replied.
pub const REPLIES: u64 = u64::MAX - 2;

/// The most connections accepted per iteration, so that a burst does not delay existing clients.
pub const MAX_ACCEPTS: usize = 64;
/// Time until `accept` is tried again while accepting is paused.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The main thread's side of the workers.
pub struct Workers {
    pool: Arc<Pool>,
    /// Clients with a completion that was submitted and is not finished. The value is a failure
    /// that came later and must wait. A client in this map is not submitted a second time. So its
    /// lines stay in order, and a failure does not overtake input.
    in_progress: BTreeMap<Id, Option<Input>>,
    /// Completions that the workers do not have yet, because of the budget.
    waiting: VecDeque<(Id, Input)>,
    /// Bytes of input that were passed to the workers, and whose effects the main thread has not
    /// taken yet.
    unanswered: usize,
    /// The deadline of the room, as of the last wait.
    deadline: Option<Instant>,
}

impl Workers {
    /// Starts the workers. They end with the process.
    ///
    /// # Errors
    /// The process is out of file descriptors or threads.
    pub fn start(room: Room) -> io::Result<Self> {
        Ok(Self {
            pool: Pool::start(room)?,
            in_progress: BTreeMap::new(),
            waiting: VecDeque::new(),
            unanswered: 0,
            deadline: None,
        })
    }

    /// Returns whether the budget allows another read to be passed to the workers
    /// ([`INPUT_BUDGET`]).
    #[must_use]
    pub fn may_submit(&self) -> bool {
        self.unanswered + READ_SIZE <= INPUT_BUDGET
    }

    /// Hands over a completed read, or a failure: step (3) in `proactor-chat-simulated.rs`. A
    /// client has at most one of each in progress.
    pub fn submit(&mut self, id: Id, input: Input) {
        if let Some(later) = self.in_progress.get_mut(&id) {
            debug_assert!(matches!(input, Input::Failure));
            *later = Some(input);
        } else {
            self.in_progress.insert(id, None);
            self.waiting.push_back((id, input));
            self.pass_on();
        }
    }

    /// Takes what the workers have done: step (5) in `proactor-chat-simulated.rs`. Adds what the
    /// room asks for to `effects`. Returns the clients from which the server may read again, with
    /// their buffers: the input has been processed, and no failure waits.
    pub fn take_replies(&mut self, effects: &mut Effects) -> Vec<(Id, Vec<u8>)> {
        let mut chat = lock(&self.pool.chat);
        effects.write.append(&mut chat.effects.write);
        effects.close.append(&mut chat.effects.close);
        let finished = mem::take(&mut chat.finished);
        self.waiting.extend(chat.to_submit_again.drain(..));
        self.unanswered -= mem::take(&mut chat.processed);
        chat.charged = 0;
        chat.notified = false;
        drop(chat);

        let mut buffers = Vec::with_capacity(finished.len());
        for (id, input) in finished {
            if let Some(Some(failure)) = self.in_progress.remove(&id) {
                self.submit(id, failure);
            } else if let Input::Bytes(buffer) = input {
                buffers.push((id, buffer));
            }
        }
        self.pass_on();
        buffers
    }

    /// Passes completions to the workers, within the budget.
    fn pass_on(&mut self) {
        while self.may_submit() {
            let Some((id, input)) = self.waiting.pop_front() else { return };
            self.unanswered += input.byte_count();
            self.pool.put(id, input);
        }
    }

    /// Returns the file descriptor that becomes readable when there are replies. Watch its edges:
    /// nobody reads from it.
    #[must_use]
    pub fn replied(&self) -> BorrowedFd<'_> {
        self.pool.replied.as_fd()
    }

    /// Calls a function of the room.
    pub fn room<T>(&self, call: impl FnOnce(&mut Room) -> T) -> T {
        call(&mut lock(&self.pool.chat).room)
    }

    /// Returns how long the main thread may wait: until the deadline of the room, or until
    /// `accept_retry`.
    pub fn timeout(&mut self, accept_retry: Option<Instant>) -> Option<Duration> {
        self.deadline = self.room(|room| room.next_deadline());
        let first = [self.deadline, accept_retry].into_iter().flatten().min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    /// Handles the deadline of the room, if it has come since [`Workers::timeout`].
    /// `has_unread_input` returns whether input of a client has arrived and was not submitted.
    pub fn expire(&self, effects: &mut Effects, has_unread_input: impl Fn(Id) -> bool) {
        let now = Instant::now();
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        for id in self.room(|room| room.expire(now, effects)) {
            if !self.in_progress.contains_key(&id) && !has_unread_input(id) {
                self.room(|room| room.dismiss(id, now, effects));
            }
        }
    }
}

/// Logs that a client's connection is closed.
pub fn log_disconnected(peer: SocketAddr, error: Option<&io::Error>) {
    match error {
        Some(error) => info!("{peer} disconnected: {error}"),
        None => info!("{peer} disconnected"),
    }
}
