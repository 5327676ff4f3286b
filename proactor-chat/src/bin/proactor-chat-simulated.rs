//! The Proactor, simulated with synchronous I/O: one thread waits and copies, with epoll. Workers
//! get completed reads, and only process them.
//!
//! ```text
//!      main thread                   kernel                  workers
//!  (1) epoll_ctl(ADD, A) ─ once ──▶  interest list           asleep
//!  (2) epoll_wait ────────────────▶  wait                       │
//!      A is readable ◀────────────   a line from A              │
//!  (3) read(A) ───────────────────▶  copy                       │
//!      the completed read ──────── queue ───────────────────▶   │
//!  (2) epoll_wait ────────────────▶  wait                    (4) process: the rules
//!  (5) a reply ◀──────────────────   eventfd ◀──────────────    the clients with output
//!  (6) write(B), write(C) … ──────▶  copy                       │
//! ```
//!
//! How a line travels: (1) The main thread registers the client's socket, once and for both
//! directions. (2) It waits. (3) It reads, and hands over the completed read: the bytes. (4) A
//! worker applies the rules of the room, and replies which clients have output now. (5) The main
//! thread is notified. (6) It writes the output of a client. If the socket gets full, it
//! writes the rest when epoll reports that the socket is writable.
//!
//! The textbook (named in `main.rs`) simulates it in these six steps, with three differences:
//! - It reads once per client and turn, not until EAGAIN: a flood would delay the other clients.
//! - Workers reply instead of registering sockets for writing, and know nothing about sockets.
//! - The main thread writes at once, and waits for EPOLLOUT only if the socket is full. This saves
//!   two system calls per write.
//!
//! This is a Proactor although it uses epoll: its handlers get completed reads, and do not know who
//! read. The same workers serve `proactor-chat-uring`. A client is disconnected when more than 256
//! KiB are pending for it. A client that has sent its FIN still gets what is pending, for at most
//! 10 s. When there is no free file descriptor, the server stops accepting for up to 100 ms.
//! The catch: one thread copies for all clients. While it copies for one, all others wait.
//!
//! Run: `cargo run -p proactor-chat --bin proactor-chat-simulated`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Figure: `docs/figures/proactor-chat-simulated.svg`.
//!
//! Use it when: handlers should know nothing about sockets, and the system cannot complete reads
//! itself or must not (`io_uring` is often forbidden).
//! Limits: each read needs a buffer of its own until processed; a Reactor's worker reuses one.
//! Compare with:
//! - `proactor-chat/src/bin/proactor-chat-uring.rs`: the kernel completes the reads.
//! - `reactor-chat/src/worker.rs`: the workers copy.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::chat::{
    self, Effects, Id, Input, Output, READ_SIZE, Room, WriterStep, has_unread_input,
    shut_down_writing, write_output,
};
use common::{Accepted, CHAT_ADDR, IDLE, accept, announce, listen, read, run, stop_socket};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use proactor_chat::{
    ACCEPT_RETRY, LISTENER, MAX_ACCEPTS, REPLIES, STOP, Workers, log_disconnected,
};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// Interest, edge-triggered: each change is reported once.
const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);
const READABLE_OR_WRITABLE: EpollFlags = READABLE.union(EpollFlags::EPOLLOUT);

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// The client is in `ready`, or a worker has its last read. It is read again without a new
    /// event, unless it has sent its FIN. A client has one read in progress, so its lines stay in
    /// order.
    reading: bool,
    /// Output taken from the room. If it is not empty, the socket is full.
    output: Output,
}

struct Server {
    listener: TcpListener,
    epoll: Epoll,
    workers: Workers,
    connections: BTreeMap<Id, Connection>,
    /// Clients to read from, in turn.
    ready: VecDeque<Id>,
    effects: Effects,
    /// More connections may be waiting. Interest is edge-triggered: no event reports them again.
    accept_pending: bool,
    /// When to accept again, after `accept` failed, for example for lack of file descriptors.
    accept_retry: Option<Instant>,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::parse_idle(&idle)?);
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        let workers = Workers::start(room).context("cannot start the workers")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let watched =
            [(stop.as_fd(), STOP), (listener.as_fd(), LISTENER), (workers.replied(), REPLIES)];
        for (fd, user_data) in watched {
            epoll.add(fd, EpollEvent::new(READABLE, user_data)).context("epoll_ctl(ADD)")?;
        }
        let mut server = Server {
            listener,
            epoll,
            workers,
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            effects: Effects::default(),
            accept_pending: false,
            accept_retry: None,
            buffer: vec![0; READ_SIZE],
        };
        announce(address);
        server.serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            let timeout = self.timeout();
            trace!("wait: epoll_wait"); // (2), (5)
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => &events[..count],
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} events", ready.len());
            for event in ready {
                match event.data() {
                    STOP => return Ok(()), // ends the process, and the kernel closes all sockets
                    LISTENER => self.accept_pending = true,
                    REPLIES => {} // they are taken below in any case
                    id => self.on_event(Id(id), event.events()),
                }
            }
            for (id, _) in self.workers.take_replies(&mut self.effects) {
                self.ready.push_back(id); // the last read may have left input in the socket
            }
            self.workers.expire(&mut self.effects, |id| {
                let connection = self.connections.get(&id);
                connection.is_some_and(|it| it.reading || has_unread_input(&it.stream))
            });
            if self.accept_pending && self.accept_retry.is_none_or(|at| at <= Instant::now()) {
                self.accept_some()?;
            }
            // Output first, then input. See `INPUT_BUDGET`.
            while let Some(id) = self.effects.write.pop() {
                self.write(id);
            }
            while let Some(id) = self.effects.close.pop() {
                self.close(id, None);
            }
            self.read_some();
        }
    }

    fn timeout(&mut self) -> EpollTimeout {
        if self.accept_pending && self.accept_retry.is_none() {
            return EpollTimeout::ZERO;
        }
        match self.workers.timeout(self.accept_retry) {
            None => EpollTimeout::NONE,
            // epoll counts whole milliseconds. Rounded down, the last one would be a busy loop.
            Some(t) => (t + Duration::from_millis(1)).try_into().unwrap_or(EpollTimeout::MAX),
        }
    }

    fn on_event(&mut self, id: Id, event: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if event != EpollFlags::EPOLLIN && !connection.output.is_empty() {
            self.effects.write.push(id); // EPOLLOUT or an error ends the wait for room
        }
        if event != EpollFlags::EPOLLOUT && !connection.reading {
            connection.reading = true;
            self.ready.push_back(id);
        }
    }

    fn accept_some(&mut self) -> io::Result<()> {
        self.accept_retry = None;
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
                Accepted::WouldBlock => {
                    self.accept_pending = false;
                    break;
                }
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.accept_retry = Some(Instant::now() + ACCEPT_RETRY);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Adds a client to the room, and registers its socket (1).
    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let id = self.workers.room(|room| room.join(Instant::now(), &mut self.effects));
        let interest = EpollEvent::new(READABLE_OR_WRITABLE, id.0);
        if let Err(error) = self.epoll.add(&stream, interest) {
            // ENOSPC: the user's limit on watched sockets (fs.epoll.max_user_watches), or ENOMEM.
            warn!("{peer} refused: epoll_ctl(ADD): {error}");
            self.workers.room(|room| room.disconnect(id, &mut self.effects));
            return Ok(());
        }
        let connection = Connection { stream, peer, reading: false, output: Output::default() };
        self.connections.insert(id, connection);
        Ok(())
    }

    /// Writes what is pending for a client, until nothing is left or the socket is full (6).
    fn write(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut written = 0;
        let mut full = false;
        loop {
            let output = &mut connection.output;
            match self.workers.room(|room| room.take_output(id, written, output)) {
                WriterStep::Write if full => return, // until EPOLLOUT is reported
                WriterStep::Write => {}
                WriterStep::Wait => return,
                WriterStep::ShutDown => return shut_down_writing(&connection.stream),
                WriterStep::Close => return self.close(id, None),
            }
            match write_output(&connection.stream, &mut connection.output) {
                Ok(count) => written = count,
                Err(error) => return self.close(id, Some(&error)),
            }
            full = !connection.output.is_empty();
        }
    }

    /// Reads from the clients that are ready, once from each, and submits what is complete (3).
    fn read_some(&mut self) {
        while self.workers.may_submit() {
            let Some(id) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match read(&connection.stream, &mut self.buffer) {
                Ok(Some(0)) => self.workers.submit(id, Input::Fin),
                Ok(Some(count)) => {
                    self.workers.submit(id, Input::Bytes(self.buffer[..count].to_vec()));
                }
                Ok(None) => connection.reading = false, // until EPOLLIN is reported
                Err(error) => self.close(id, Some(&error)),
            }
        }
    }

    /// Closes a connection. An error (a reset, a timeout) is a completion for the workers.
    fn close(&mut self, id: Id, error: Option<&io::Error>) {
        let Some(connection) = self.connections.remove(&id) else { return };
        log_disconnected(connection.peer, error);
        self.accept_retry = None; // a file descriptor is free now
        if error.is_some() {
            self.workers.submit(id, Input::Failure);
        }
    }
}
