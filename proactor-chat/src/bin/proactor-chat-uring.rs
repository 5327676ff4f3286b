//! The Proactor on `io_uring`: the main thread submits operations, the kernel completes them, and
//! workers process what was read.
//!
//! ```text
//!      main thread                   kernel                  workers
//!  (1) recv(A, buffer) ─ queue ──▶   ┐                       asleep
//!  (2) io_uring_enter ───────────▶   │ wait: a line from A      │
//!        blocked                     ┘                          │
//!        blocked                     ] copy: into the buffer    │
//!  (3) recv(A) = 6 ◀──────────────   completion                 │
//!      the completed read ──────── queue ───────────────────▶   │
//!  (2) io_uring_enter ───────────▶   wait                    (4) process: the rules
//!  (5) a reply ◀──────────────────   eventfd ◀──────────────    the clients with output
//!  (6) writev(B), writev(C) queue ▶  copy, when there is room   │
//! ```
//!
//! How a line travels: (1) The main thread gives the kernel a client's socket and a buffer to read
//! into. (2) One system call submits all queued operations, for all clients, and waits. (3) The line
//! is in the buffer, and the main thread passes it to the workers. (4) A worker applies the rules of
//! the room, and replies which clients have output now. (5) The main thread is notified. (6) It
//! gives the kernel all output of a client in one operation, and the buffer of (1) again.
//!
//! A client that does not read is disconnected when more than 256 KiB are pending for it, a client
//! that has sent its FIN still gets what is pending, and without free file descriptors accepting
//! pauses for 100 ms.
//!
//! The catch: until an operation has completed, its buffers and its file descriptor belong to the
//! kernel, even if the client is gone.
//!
//! Run: `cargo run -p proactor-chat --bin proactor-chat-uring`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Figure: `docs/figures/proactor-chat-uring.svg`.
//!
//! Use it when: you write much to many clients, and the kernel permits it. One system call submits
//! the writes to many clients, so this server makes a tenth of the system calls of
//! `proactor-chat-simulated` (docs/benchmarks: chat of 100). The copying is the same.
//! Limits: Linux 6.1 or newer, and forbidden in many containers. The kernel needs the buffer before
//! the line is there, so an idle client uses 4 KiB.
//! Compare with:
//! - `proactor-chat/src/bin/proactor-chat-simulated.rs`: a thread completes the reads. The workers
//!   are the same, `proactor-chat/src/lib.rs`.
//! - `uring-echo/src/main.rs`: `io_uring` without workers.

use std::collections::BTreeMap;
use std::io;
use std::io::ErrorKind::{ConnectionReset, Interrupted};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use common::chat::{self, Effects, Id, Input, READ_SIZE, Room, WriterStep, shut_down_writing};
use common::{Accepted, CHAT_ADDR, IDLE, announce, listen, run, stop_socket};
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use log::trace;
use proactor_chat::{ACCEPT_RETRY, Connection, LISTENER, REPLIES, STOP, Workers};
use socket2::SockRef;
use uring_echo::{accept_result, enter, io_result, new_ring};

/// Size of the submission queue. When it is full, the server submits early.
const MAX_OPERATIONS: u32 = 256;
/// User data of a write: the client's id and this bit. The id alone stands for its read.
const WRITE: u64 = 1 << 63;

struct Server {
    listener: TcpListener,
    ring: IoUring,
    /// Completed operations, taken from the ring.
    completed: Vec<cqueue::Entry>,
    workers: Workers,
    connections: BTreeMap<Id, Connection>,
    effects: Effects,
    /// When to accept again, after `accept` failed, for example for lack of file descriptors.
    accept_retry: Option<Instant>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::parse_idle(&idle)?);
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        let server = Server {
            listener,
            ring: new_ring(MAX_OPERATIONS)?,
            completed: Vec::new(),
            workers: Workers::start(room).context("cannot start the workers")?,
            connections: BTreeMap::new(),
            effects: Effects::default(),
            accept_retry: None,
        };
        // Never freed: when the program ends, the kernel still has buffers.
        let server = Box::leak(Box::new(server));
        server.queue(STOP, poll(stop.as_raw_fd()).build())?;
        server.queue_poll_of_replies()?;
        server.queue_accept()?;
        announce(address);
        server.serve()
    })
}

fn poll(fd: RawFd) -> opcode::PollAdd {
    opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32)
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            trace!("wait: io_uring_enter"); // (2), (5)
            self.enter(usize::from(self.completed.is_empty()))?;
            trace!("wait: io_uring_enter = {} completed", self.completed.len());

            for completion in mem::take(&mut self.completed) {
                let (result, more) = (io_result(&completion), cqueue::more(completion.flags()));
                match completion.user_data() {
                    STOP => {
                        // Ends the accept in flight, which would keep the port in use after the
                        // exit. An error changes nothing: the server ends in any case.
                        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
                        return Ok(());
                    }
                    LISTENER => self.on_accept(result, more)?,
                    REPLIES if more => {} // they are taken below in any case
                    REPLIES => self.queue_poll_of_replies()?,
                    user_data if user_data & WRITE == 0 => self.on_read(Id(user_data), result)?,
                    user_data => self.on_write(Id(user_data & !WRITE), result)?,
                }
            }
            let buffers = self.workers.take_replies(&mut self.effects);
            self.workers.expire(&mut self.effects, |id| {
                self.connections.get(&id).is_some_and(Connection::has_unread_input)
            });
            while let Some(id) = self.effects.write.pop() {
                self.write(id, 0)?;
            }
            while let Some(id) = self.effects.close.pop() {
                self.close(id, None);
            }
            for (id, buffer) in buffers {
                self.read(id, buffer)?;
            }
            if self.accept_retry.is_some_and(|at| at <= Instant::now()) {
                self.queue_accept()?;
            }
        }
    }

    /// Queues an operation. The kernel returns `user_data` with its result.
    fn queue(&mut self, user_data: u64, operation: squeue::Entry) -> anyhow::Result<()> {
        let operation = operation.user_data(user_data);
        // SAFETY: the memory that the operation uses is heap memory of a connection. `connections`
        // keeps it, and nobody changes it, until the operation has completed.
        while unsafe { self.ring.submission().push(&operation) }.is_err() {
            self.enter(0)?; // the queue is full
        }
        Ok(())
    }

    /// Submits what is queued, waits for `count` completions or a timeout, and takes completions.
    fn enter(&mut self, count: usize) -> anyhow::Result<()> {
        enter(&self.ring, count, self.workers.timeout(self.accept_retry))?;
        self.completed.extend(self.ring.completion());
        Ok(())
    }

    fn queue_poll_of_replies(&mut self) -> anyhow::Result<()> {
        let poll = poll(self.workers.replied().as_raw_fd());
        self.queue(REPLIES, poll.multi(true).build()) // completes once per write to the eventfd
    }

    /// Queues an accept that completes once per connection, until it fails.
    fn queue_accept(&mut self) -> anyhow::Result<()> {
        self.accept_retry = None;
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()));
        self.queue(LISTENER, accept.flags(libc::SOCK_CLOEXEC).build())
    }

    fn on_accept(&mut self, result: io::Result<usize>, more: bool) -> anyhow::Result<()> {
        match accept_result(result) {
            Some(Accepted::Connection(stream, peer)) => self.add(stream, peer)?,
            // Pitfall: accept-spins
            Some(Accepted::Pause) => self.accept_retry = Some(Instant::now() + ACCEPT_RETRY),
            Some(Accepted::WouldBlock) | None => {}
        }
        if more || self.accept_retry.is_some() { Ok(()) } else { self.queue_accept() }
    }

    /// Adds a client to the room, and begins to read from it (1).
    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        let id = self.workers.room(|room| room.join(Instant::now(), &mut self.effects));
        self.connections.insert(id, Connection::new(stream, peer));
        self.read(id, Vec::with_capacity(READ_SIZE))
    }

    /// Reads on, into the buffer whose bytes have been processed.
    fn read(&mut self, id: Id, buffer: Vec<u8>) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.is_closed() {
            return Ok(());
        }
        let (fd, memory) = (connection.stream.as_raw_fd(), connection.start_read(buffer));
        self.queue(id.0, opcode::Recv::new(Fd(fd), memory, READ_SIZE as u32).build())
    }

    /// A read has completed (3).
    fn on_read(&mut self, id: Id, result: io::Result<usize>) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let buffer = connection.complete_read(&result);
        match result {
            _ if connection.is_closed() => self.close(id, None),
            Ok(0) if connection.was_reset() => self.close(id, Some(&ConnectionReset.into())),
            Ok(0) => self.workers.submit(id, Input::Fin),
            Ok(_) => self.workers.submit(id, Input::Bytes(buffer)),
            // The process was stopped (SIGSTOP) while a thread of the kernel waited: try again.
            Err(error) if error.kind() == Interrupted => return self.read(id, buffer),
            Err(error) => self.close(id, Some(&error)),
        }
        Ok(())
    }

    /// Writes all output of a client (6). Its last write took `written` bytes.
    fn write(&mut self, id: Id, written: usize) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.is_closed() {
            return Ok(());
        }
        let output = &mut connection.output;
        match self.workers.room(|room| room.take_output(id, written, output)) {
            WriterStep::Write => {
                let (fd, blocks) = (connection.stream.as_raw_fd(), connection.start_write());
                let writev = opcode::Writev::new(Fd(fd), blocks.as_ptr(), blocks.len() as u32);
                return self.queue(id.0 | WRITE, writev.build());
            }
            WriterStep::Wait => {}
            WriterStep::ShutDown => shut_down_writing(&connection.stream),
            WriterStep::Close => self.close(id, None),
        }
        Ok(())
    }

    /// A write has completed.
    fn on_write(&mut self, id: Id, result: io::Result<usize>) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.complete_write(&result);
        match result {
            _ if connection.is_closed() => self.close(id, None),
            Ok(count) => return self.write(id, count),
            // As for a read: try again.
            Err(error) if error.kind() == Interrupted => return self.write(id, 0),
            Err(error) => self.close(id, Some(&error)),
        }
        Ok(())
    }

    /// Ends what is in flight, and drops the connection when that has completed. An error (a reset, a
    /// timeout) is a completion for the workers.
    fn close(&mut self, id: Id, error: Option<&io::Error>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.close(error);
        if !connection.is_in_flight() {
            self.connections.remove(&id);
            self.accept_retry = self.accept_retry.map(|_| Instant::now()); // a descriptor is free
        }
        if error.is_some() {
            self.workers.submit(id, Input::Failure);
        }
    }
}
