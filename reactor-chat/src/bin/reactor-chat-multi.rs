//! Main and sub reactors (主从 Reactor; also called one loop per thread): one thread accepts, and
//! several loops serve the clients, each in a thread. All clients share one room.
//!
//! ```text
//!      main                    loop 1                        loop 2
//!  (1) accept = B ──────────── mailbox 2, eventfd ────────▶  register B
//!      accept              (2) epoll_wait                (2) epoll_wait
//!        blocked           (3) read(A)                         asleep
//!        blocked               process the line:               asleep
//!        blocked           (4) B ── mailbox 2, eventfd ────▶   wakes
//!        blocked           (5) write to its clients      (5) write(B)
//! ```
//!
//! How a line travels: (1) The main thread, the main reactor, accepts a client, adds it to the room,
//! and gives it to the loops in turn. (It waits for one listener, so it needs no epoll.) (2) Each
//! loop waits for its own clients and for its mailbox. (3) It reads once from each client that can be
//! read, and applies the rules of the room. The room is locked meanwhile, so all clients get the
//! lines in the same order. (4) The clients that have output now are put into the mailboxes of their
//! loops (`shared.rs`). A loop takes all its mail at once, so one write to its eventfd is enough for
//! many lines. (5) Each loop writes to its own clients. If a socket gets full, the loop writes the
//! rest when epoll reports that the socket is writable.
//!
//! A client is disconnected when more than 256 KiB are pending for it. A client that has sent its
//! FIN still gets what is pending, for at most 10 s. When there is no free file descriptor, the
//! server stops accepting for 100 ms.
//!
//! The catch: a client stays with its loop. `/factor N` blocks the loop of its client, even if the
//! other loops have nothing to do. Their clients are served: the room is not locked meanwhile.
//!
//! Run: `cargo run -p reactor-chat --bin reactor-chat-multi`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Figure: `docs/figures/reactor-chat-multi.svg`.
//!
//! Use it when: one loop cannot serve all clients, and the handlers are short (Netty, muduo).
//! Limits: the rules of the room run on one core at a time. No loop helps a busy one.
//! Compare with:
//! - `diff reactor-chat/src/bin/reactor-chat-single.rs reactor-chat/src/bin/reactor-chat-multi.rs`:
//!   one loop, and nothing to lock.
//! - `reactor-chat/src/main.rs`: one thread waits, and any worker serves any client.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use common::chat::{self, Id, Input, Room, WriterStep};
use common::{Accepted, CHAT_ADDR, IDLE, accept, announce, exit_on_stop, listen, read, run};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use reactor_chat::{
    ACCEPT_RETRY, Connection, INTEREST, Job, LOOPS, MAILBOX, READABLE, SharedRoom, end,
    parse_loops, timeout_until,
};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// The most clients that are written to per iteration, so that new lines are read in between.
const MAX_WRITES: usize = 64;

/// A sub reactor.
struct Loop {
    number: usize,
    shared: &'static SharedRoom<Connection>,
    epoll: Epoll,
    connections: BTreeMap<Id, Connection>,
    /// Clients to read from, in turn.
    ready: VecDeque<Id>,
    /// Input that the room does not have yet.
    inputs: VecDeque<(Id, Input)>,
    jobs: VecDeque<Job>,
    /// Clients to write to.
    to_write: VecDeque<Id>,
    /// The budget is used up. `inputs` must wait for a notification.
    must_wait: bool,
    /// When to look for idle clients.
    deadline: Option<Instant>,
    /// The read buffer. All connections of the loop share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE, LOOPS], |[addr, idle, loops]| {
        let room = Room::new(chat::parse_idle(&idle)?);
        let loops = parse_loops(&loops)?;
        let listener = listen(&addr)?;
        exit_on_stop()?; // whatever the loops do. Pitfall: flag-never-stops
        let shared = SharedRoom::new(room, loops).context("eventfd")?;
        let shared: &'static SharedRoom<Connection> = Box::leak(Box::new(shared));
        for number in 0..loops {
            let mut new = Loop::new(number, shared)?;
            thread::Builder::new()
                .name(format!("loop-{}", number + 1))
                .spawn(move || end(new.serve()))
                .with_context(|| format!("cannot start {loops} threads"))?;
        }
        announce(listener.local_addr()?);
        loop {
            match accept(&listener) {
                Accepted::Connection(stream, peer) => {
                    let connection = Connection::new(stream, peer)?;
                    shared.with(|chat| chat.join(connection)); // (1)
                }
                // This thread has nothing else to do. Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause | Accepted::WouldBlock => thread::sleep(ACCEPT_RETRY),
            }
        }
    })
}

impl Loop {
    fn new(number: usize, shared: &'static SharedRoom<Connection>) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let interest = EpollEvent::new(READABLE, MAILBOX.0);
        epoll.add(shared.notifier(number), interest).context("epoll_ctl(ADD, eventfd)")?;
        Ok(Self {
            number,
            shared,
            epoll,
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            inputs: VecDeque::new(),
            jobs: VecDeque::new(),
            to_write: VecDeque::new(),
            must_wait: false,
            deadline: None,
            buffer: vec![0; shared.read_size()],
        })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            trace!("wait: epoll_wait"); // (2)
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => &events[..count],
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} events", ready.len());
            for event in ready {
                match Id(event.data()) {
                    MAILBOX => {} // the mail is taken below in any case
                    id => self.on_client(id, event.events()),
                }
            }
            self.read_some();
            self.process();
            self.write_some();
            self.compute();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let has_input = !self.ready.is_empty() || !self.inputs.is_empty();
        if !self.jobs.is_empty() || !self.to_write.is_empty() || has_input && !self.must_wait {
            return EpollTimeout::ZERO;
        }
        timeout_until(self.deadline)
    }

    fn on_client(&mut self, id: Id, event: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if event != EpollFlags::EPOLLIN && connection.is_full() {
            self.to_write.push_back(id); // EPOLLOUT or an error ends the wait for room
        }
        if event != EpollFlags::EPOLLOUT && !connection.reading {
            connection.reading = true;
            self.ready.push_back(id);
        }
    }

    /// Reads once from each client that is ready, as much as the budget can allow (3).
    fn read_some(&mut self) {
        let mut left = if self.must_wait { 0 } else { self.shared.budget() };
        for _ in 0..self.ready.len() {
            if left < self.buffer.len() {
                return;
            }
            let Some(id) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match read(&connection.stream, &mut self.buffer) {
                Ok(Some(0)) => self.inputs.push_back((id, Input::Fin)),
                Ok(Some(count)) => {
                    self.inputs.push_back((id, Input::Bytes(self.buffer[..count].to_vec())));
                    left -= count;
                }
                Ok(None) => connection.reading = false, // until EPOLLIN is reported
                Err(error) => self.close(id, Some(&error)),
            }
        }
    }

    /// Passes input to the room, within the budget, and handles the mail of this loop.
    fn process(&mut self) {
        let mail = self.shared.with(|chat| {
            while let Some((id, mut input)) = self.inputs.pop_front() {
                if !chat.may_process(self.number, &input) {
                    self.inputs.push_front((id, input));
                    break;
                }
                if let Some(computation) = chat.process(self.number, id, &mut input) {
                    self.jobs.push_back(Job { id, computation, rest: input });
                } else if let Input::Bytes(_) = input {
                    self.ready.push_back(id); // the last read may have left input in the socket
                }
            }
            self.must_wait = !self.inputs.is_empty();
            chat.take_mail(self.number, !self.to_write.is_empty(), self.must_wait)
        }); // (4)
        self.deadline = mail.deadline;
        for (id, connection) in mail.connections {
            let interest = EpollEvent::new(INTEREST, id.0);
            if let Err(error) = self.epoll.add(&connection.stream, interest) {
                // ENOSPC: the user's limit on watched sockets (fs.epoll.max_user_watches), or ENOMEM.
                warn!("{} refused: epoll_ctl(ADD): {error}", connection.peer);
                self.inputs.push_back((id, Input::Failure));
            } else {
                self.connections.insert(id, connection); // (1)
            }
        }
        self.to_write.extend(mail.write);
        for id in mail.close {
            self.close(id, None);
        }
        for id in mail.idle {
            // Input that has arrived in time counts. Pitfall: timer-before-input
            if self.connections.get(&id).is_some_and(Connection::is_idle) {
                self.shared.with(|chat| chat.dismiss(id));
            }
        }
    }

    /// Writes to the clients that have output (5).
    fn write_some(&mut self) {
        let shared = self.shared;
        let count = self.to_write.len().min(MAX_WRITES);
        for id in self.to_write.drain(..count).collect::<Vec<_>>() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match connection
                .write(|written, output| shared.with(|chat| chat.take_output(id, written, output)))
            {
                Ok(WriterStep::Close) => self.close(id, None),
                Ok(_) => {}
                Err(error) => self.close(id, Some(&error)),
            }
        }
        if count > 0 && self.to_write.is_empty() {
            shared.with(|chat| chat.has_written(self.number));
        }
    }

    /// Computes once, if no client waits for output. All clients of this loop wait for the result.
    fn compute(&mut self) {
        if !self.to_write.is_empty() {
            return;
        }
        let Some(job) = self.jobs.pop_front() else { return };
        let result = job.computation.run();
        self.shared.with(|chat| chat.reply(job.id, &result));
        self.inputs.push_back((job.id, job.rest));
    }

    fn close(&mut self, id: Id, error: Option<&io::Error>) {
        let Some(connection) = self.connections.remove(&id) else { return };
        connection.close(error);
        if error.is_some() {
            self.inputs.push_back((id, Input::Failure)); // after what the client has sent
        }
    }
}
