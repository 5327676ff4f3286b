//! The Reactor as it was first described (POSA, volume 2): one thread waits for all event sources,
//! and calls the handler that is registered for each source that is ready. Redis works like this.
//!
//! ```text
//!      the only thread                          kernel
//!  (1) register A: on_client ───── once ────▶   interest list: stop, listener, A, B, C …
//!  (2) epoll_wait ──────────────────────────▶ ┐ wait: for all of them at once
//!      A is readable ◀──────────────────────  ┘ a line from A
//!  (3) on_client(A), the handler of A
//!  (4) read(A) ─────────────────────────────▶   copy
//!      process the line
//!  (5) write(B), write(C) … ────────────────▶   copy
//!  (2) epoll_wait ──────────────────────────▶   wait
//! ```
//!
//! How a line travels: (1) The server registers the client's socket, once and for both directions,
//! together with a handler. (2) The thread waits. (3) It calls the handler of each event source that
//! is ready. The handler of a client notes whether the client can be read or written. (4) The thread
//! reads once from each client that can be read, and applies the rules of the room. (5) It writes to
//! the clients that have output, at most 64 of them per iteration. Between two such groups it reads
//! what has arrived, so the next group gets these lines in the same write. If a socket gets full,
//! the server writes the rest when epoll reports that the socket is writable.
//!
//! A client is disconnected when more than 256 KiB are pending for it. A client that has sent its
//! FIN still gets what is pending, for at most 10 s. When there is no free file descriptor, the
//! server stops accepting for up to 100 ms.
//!
//! The catch: one thread does everything, so all clients wait for the slowest step. `/factor N`
//! blocks the loop: while the server computes, it serves no client and does not react to SIGTERM. It
//! computes when it has nothing to write, once per iteration, so the others are served in between.
//!
//! Run: `cargo run -p reactor-chat --bin reactor-chat-single`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Figure: `docs/figures/reactor-chat-single.svg`.
//!
//! Use it when: the handlers are short. Nothing is locked, and no event passes from one thread to
//! another.
//! Limits: one core. A handler must neither block nor compute for long.
//! Compare with:
//! - `reactor-chat/src/main.rs`: workers read, process, compute and write.
//! - `diff reactor-chat/src/bin/reactor-chat-single.rs reactor-chat/src/bin/reactor-chat-multi.rs`:
//!   several such loops, and one room.
//! - `proactor-chat/src/bin/proactor-chat-simulated.rs`: a similar loop, but workers process.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use common::chat::{self, Effects, INPUT_BUDGET, Id, Input, READ_SIZE, Room, WriterStep};
use common::{CHAT_ADDR, IDLE, announce, listen, read, run, stop_socket};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use reactor_chat::{Acceptor, Connection, INTEREST, Job, LISTENER, READABLE, STOP, timeout_until};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The most clients that are written to per iteration, so that new lines are read in between.
const MAX_WRITES: usize = 64;

/// What the loop calls when an event source is ready.
type Handler = fn(&mut Server, Id, EpollFlags);

struct Server {
    acceptor: Acceptor,
    epoll: Epoll,
    handlers: BTreeMap<Id, Handler>,
    stopped: bool,
    room: Room,
    /// What the room asks for. `effects.write` is the queue of the clients to write to.
    effects: Effects,
    connections: BTreeMap<Id, Connection>,
    /// Clients to read from, in turn.
    ready: VecDeque<Id>,
    jobs: VecDeque<Job>,
    /// How much of the budget has been used since all output was last offered to the sockets.
    used: usize,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::parse_idle(&idle)?);
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        epoll.add(&stop, event(READABLE, STOP)).context("epoll_ctl(ADD, stop)")?;
        epoll.add(&listener, event(READABLE, LISTENER)).context("epoll_ctl(ADD, listener)")?;
        let handlers: [(Id, Handler); 2] = [
            (STOP, |server, _, _| server.stopped = true),
            (LISTENER, |server, _, _| server.acceptor.on_readable()),
        ];
        let mut server = Server {
            acceptor: Acceptor::new(listener)?,
            epoll,
            handlers: handlers.into(),
            stopped: false,
            room,
            effects: Effects::default(),
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            jobs: VecDeque::new(),
            used: 0,
            buffer: vec![0; READ_SIZE],
        };
        announce(address);
        server.serve()
    })
}

fn event(interest: EpollFlags, id: Id) -> EpollEvent {
    EpollEvent::new(interest, id.0)
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        while !self.stopped {
            trace!("wait: epoll_wait"); // (2)
            let timeout = self.timeout();
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => &events[..count],
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} events", ready.len());
            for event in ready {
                let id = Id(event.data());
                if let Some(&handler) = self.handlers.get(&id) {
                    handler(self, id, event.events()); // (3)
                }
            }
            self.expire();
            self.accept_some();
            self.read_some();
            self.write_some();
            self.compute();
        }
        Ok(()) // ends the process, and the kernel closes all sockets
    }

    fn timeout(&self) -> EpollTimeout {
        let has_input = !self.ready.is_empty() || !self.jobs.is_empty();
        if has_input || !self.effects.write.is_empty() || self.acceptor.is_ready() {
            return EpollTimeout::ZERO;
        }
        let deadlines = [self.room.next_deadline(), self.acceptor.retry()];
        timeout_until(deadlines.into_iter().flatten().min())
    }

    /// The handler of a client.
    fn on_client(&mut self, id: Id, event: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if event != EpollFlags::EPOLLIN && connection.is_full() {
            self.effects.write.push(id); // EPOLLOUT or an error ends the wait for room
        }
        if event != EpollFlags::EPOLLOUT && !connection.reading {
            connection.reading = true;
            self.ready.push_back(id);
        }
    }

    /// Adds new clients to the room, and registers their sockets and their handlers (1).
    fn accept_some(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            let Some(connection) = self.acceptor.accept() else { return };
            let id = self.room.join(Instant::now(), &mut self.effects);
            if let Err(error) = self.epoll.add(&connection.stream, event(INTEREST, id)) {
                // ENOSPC: the user's limit on watched sockets (fs.epoll.max_user_watches), or ENOMEM.
                warn!("{} refused: epoll_ctl(ADD): {error}", connection.peer);
                self.room.disconnect(id, &mut self.effects);
                continue;
            }
            self.connections.insert(id, connection);
            self.handlers.insert(id, Self::on_client);
        }
    }

    /// Reads once from each client that is ready, within the budget (4).
    fn read_some(&mut self) {
        if self.effects.write.is_empty() {
            self.used = 0;
        }
        for _ in 0..self.ready.len() {
            if self.used + READ_SIZE > INPUT_BUDGET {
                return; // until all output has been offered to the sockets
            }
            let Some(id) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match read(&connection.stream, &mut self.buffer) {
                Ok(Some(0)) => self.process(id, Input::Fin),
                Ok(Some(count)) => self.process(id, Input::Bytes(self.buffer[..count].to_vec())),
                Ok(None) => connection.reading = false, // until EPOLLIN is reported
                Err(error) => self.close(id, Some(&error)),
            }
        }
    }

    /// Passes input to the room.
    fn process(&mut self, id: Id, mut input: Input) {
        let length = input.byte_count();
        let computation = self.room.process(id, &mut input, Instant::now(), &mut self.effects);
        self.used += self.effects.take_charge(length - input.byte_count());
        if let Some(computation) = computation {
            self.jobs.push_back(Job { id, computation, rest: input });
        } else if let Input::Bytes(_) = input {
            self.ready.push_back(id); // the last read may have left input in the socket
        }
    }

    /// Writes to the clients that have output (5), and closes connections.
    fn write_some(&mut self) {
        let count = self.effects.write.len().min(MAX_WRITES);
        for id in self.effects.write.drain(..count).collect::<Vec<_>>() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match connection.write(|written, output| self.room.take_output(id, written, output)) {
                Ok(WriterStep::Close) => self.close(id, None),
                Ok(_) => {}
                Err(error) => self.close(id, Some(&error)),
            }
        }
        while let Some(id) = self.effects.close.pop() {
            self.close(id, None);
        }
    }

    /// Computes once, if no client waits for output. All clients wait for the result.
    fn compute(&mut self) {
        if !self.effects.write.is_empty() {
            return;
        }
        let Some(job) = self.jobs.pop_front() else { return };
        let result = job.computation.run();
        self.room.reply(job.id, &result, &mut self.effects);
        self.process(job.id, job.rest);
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for id in self.room.expire(now, &mut self.effects) {
            // Input that has arrived in time counts. Pitfall: timer-before-input
            if self.connections.get(&id).is_some_and(Connection::is_idle) {
                self.room.dismiss(id, now, &mut self.effects);
            }
        }
    }

    fn close(&mut self, id: Id, error: Option<&io::Error>) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.handlers.remove(&id);
        connection.close(error);
        if error.is_some() {
            self.room.disconnect(id, &mut self.effects);
        }
        self.acceptor.resume();
    }
}
