//! The Proactor on `io_uring`: the main thread submits operations, the kernel completes them, and
//! workers process what was read.
//!
//! ```text
//!      main thread                   kernel                  workers
//!  (1) recv(A, any buffer) queue ▶   ┐                       asleep
//!  (2) io_uring_enter ───────────▶   │ wait: a line from A      │
//!        blocked                     ┘                          │
//!        blocked                     ] copy: into buffer 0      │
//!  (3) recv(A) = 6, buffer 0 ◀────   completion                 │
//!      the completed read ──────── queue ───────────────────▶   │
//!  (2) io_uring_enter ───────────▶   wait                    (4) process: the rules
//!  (5) a reply ◀──────────────────   eventfd ◀──────────────    the clients with output
//!  (6) writev(B), writev(C) queue ▶  copy, when there is room   │
//! ```
//!
//! How a line travels: (1) The main thread queues a receive that names no buffer. (2) One system call
//! submits all queued operations, for all clients, and waits. (3) The completion says which free buffer
//! the kernel has taken. The main thread copies the line for the workers, and gives the buffer back.
//! (4) A worker applies the rules of the room, and replies which clients have output now. (5) The
//! main thread is notified. (6) It gives the kernel all output of a client in one operation, and
//! queues the receive of (1) again. An idle client has no buffer.
//!
//! A client that does not read is disconnected when more than 256 KiB are pending for it, a client
//! that has sent its FIN still gets what is pending, and without free file descriptors accepting
//! pauses for 100 ms.
//!
//! The catch: until an operation has completed, its memory and its socket belong to the kernel, even
//! if the client is gone. To close a connection, the server calls shutdown(2), which completes its
//! receive and its write. `IORING_OP_ASYNC_CANCEL` would be one more operation for each of the two.
//! The idle timeout is the timeout of the wait. What has arrived is read before a deadline is checked.
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
//! Limits: Linux 6.1 or newer, and forbidden in many containers.
//! Compare with:
//! - `proactor-chat/src/bin/proactor-chat-simulated.rs`: a thread completes reads, for the same workers.
//! - `uring-echo/src/bin/uring-echo-buffers.rs`: `io_uring` with provided buffers, without workers.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::TcpListener;
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
use uring_echo::{Buffers, accept_result, end_accept, enter, io_result, new_ring, queue};

/// Size of the submission queue. When it is full, the server submits early.
const MAX_OPERATIONS: u32 = 256;
/// How many buffers the clients share: enough for those whose lines arrive at the same time.
const BUFFER_COUNT: u16 = 64;
/// User data of a write: the client's id and this bit. The id alone stands for its read.
const WRITE: u64 = 1 << 63;

struct Server {
    listener: TcpListener,
    ring: IoUring,
    buffers: Buffers,
    /// Results that have not been processed. [`queue`] adds some when its queue is full.
    completions: Vec<cqueue::Entry>,
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
        let stop = stop_socket()?;
        let ring = new_ring(MAX_OPERATIONS)?;
        let buffers = Buffers::register(&ring, BUFFER_COUNT, READ_SIZE)?;
        // Never freed: when the program ends, operations are in flight that use the memory of the
        // server.
        let server = Box::leak(Box::new(Server {
            listener,
            ring,
            buffers,
            completions: Vec::new(),
            workers: Workers::start(room).context("cannot start the workers")?,
            connections: BTreeMap::new(),
            effects: Effects::default(),
            accept_retry: None,
        }));
        server.queue_poll(STOP, stop.as_raw_fd())?;
        server.queue_poll(REPLIES, server.workers.replied().as_raw_fd())?;
        server.queue_accept()?;
        announce(server.listener.local_addr()?);
        server.serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            trace!("wait: io_uring_enter"); // (2), (5)
            let timeout = self.workers.timeout(self.accept_retry);
            enter(&self.ring, self.completions.is_empty().into(), timeout)?;
            self.completions.extend(self.ring.completion());
            trace!("wait: io_uring_enter = {} completed", self.completions.len());

            for completion in mem::take(&mut self.completions) {
                let more = cqueue::more(completion.flags());
                match completion.user_data() {
                    STOP => {
                        end_accept(&self.listener);
                        return Ok(());
                    }
                    LISTENER => self.on_accept(io_result(&completion), more)?,
                    REPLIES if more => {} // they are taken below in any case
                    REPLIES => self.queue_poll(REPLIES, self.workers.replied().as_raw_fd())?,
                    id if id & WRITE == 0 => self.on_read(Id(id), &completion)?,
                    id => self.on_write(Id(id & !WRITE), io_result(&completion))?,
                }
            }
            let processed = self.workers.take_replies(&mut self.effects);
            // Input of a receive in `completions` is no longer in the socket. It is processed
            // before a deadline is checked.
            if self.completions.is_empty() {
                self.workers.expire(&mut self.effects, |id| {
                    self.connections.get(&id).is_some_and(Connection::has_unread_input)
                });
            }
            while let Some(id) = self.effects.write.pop() {
                self.write(id, 0)?;
            }
            while let Some(id) = self.effects.close.pop() {
                self.close(id, None);
            }
            for (id, _) in processed {
                self.read(id)?;
            }
            if self.accept_retry.is_some_and(|at| at <= Instant::now()) {
                self.queue_accept()?;
            }
        }
    }

    /// Queues an operation. The kernel returns `user_data` with its result.
    fn queue(&mut self, user_data: u64, operation: squeue::Entry) -> anyhow::Result<()> {
        // SAFETY: a write uses heap memory of a connection. `connections` keeps it, and nothing
        // changes it, until the write has completed. The memory of receives is never freed.
        unsafe { queue(&mut self.ring, &operation.user_data(user_data), &mut self.completions) }
    }

    /// Queues a poll that completes each time that `fd` becomes readable.
    fn queue_poll(&mut self, user_data: u64, fd: RawFd) -> anyhow::Result<()> {
        let poll = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32);
        self.queue(user_data, poll.multi(true).build())
    }

    /// Queues an accept that completes once per connection, until it fails.
    fn queue_accept(&mut self) -> anyhow::Result<()> {
        self.accept_retry = None;
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()));
        self.queue(LISTENER, accept.flags(libc::SOCK_CLOEXEC).build())
    }

    fn on_accept(&mut self, result: io::Result<usize>, more: bool) -> anyhow::Result<()> {
        match accept_result(result) {
            Some(Accepted::Connection(stream, peer)) => {
                let id = self.workers.room(|room| room.join(Instant::now(), &mut self.effects));
                self.connections.insert(id, Connection::new(stream, peer));
                self.read(id)?;
            }
            // Pitfall: accept-spins
            Some(Accepted::Pause) => self.accept_retry = Some(Instant::now() + ACCEPT_RETRY),
            Some(Accepted::WouldBlock) | None => {}
        }
        if more || self.accept_retry.is_some() { Ok(()) } else { self.queue_accept() }
    }

    /// Queues a receive (1).
    fn read(&mut self, id: Id) -> anyhow::Result<()> {
        match self.connections.get_mut(&id) {
            Some(connection) if !connection.is_closed() => {
                let fd = connection.start_read();
                self.queue(id.0, self.buffers.receive(Fd(fd)))
            }
            _ => Ok(()),
        }
    }

    /// A receive has completed (3).
    fn on_read(&mut self, id: Id, completion: &cqueue::Entry) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        if let Some(filled) = self.buffers.filled(completion) {
            bytes = self.buffers.bytes(&filled).to_vec();
            self.buffers.give_back(filled);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        match connection.complete_read(io_result(completion), bytes) {
            _ if connection.is_closed() => self.close(id, None),
            Ok(input) => self.workers.submit(id, input),
            // ENOBUFS: the receives that took the buffers completed earlier, so buffers are free
            // again. Pitfall: enobufs-spins. EINTR: SIGSTOP has interrupted a kernel thread.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {
                return self.read(id);
            }
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
                let fd = connection.stream.as_raw_fd();
                let blocks = connection.start_write();
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
            // SIGSTOP has interrupted a thread of the kernel.
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.write(id, 0),
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
