//! `io_uring`: the process puts operations into a queue that it shares with the kernel. The kernel
//! carries them out, copy included, and puts the results into a second queue.
//!
//! ```text
//!      application                              kernel
//!  (1) recv(8, buffer) ── queue ─────────────▶  ┐
//!  (2) io_uring_enter ───────────────────────▶  │ wait: until data for 8 arrives
//!        asleep                                 ┘ a message has arrived
//!        asleep                                 ┐ copy: into the buffer
//!  (3) recv(8) = 6 ◀───────────── queue ─────   ┘ completion
//!  (4) send(8, buffer) ── queue ─────────────▶    copy, when there is room; completion
//! ```
//!
//! This is completion: the kernel notifies the process after the copy. epoll and SIGIO notify it
//! after the wait (readiness), and the process then copies by itself.
//!
//! How a message travels: (1) The server queues a receive into the connection's buffer. Queuing is
//! not a system call. (2) One call submits all queued operations, for any number of sockets, and
//! waits until one has completed. (3) The message is in the buffer. (4) The server queues a send of
//! it. (5) A send can be short. The rest is pending output, and is sent before the next receive. So
//! a client that does not read is not read from.
//!
//! The catch: from submission to completion, the kernel uses the buffer and the socket, even if the
//! file descriptor is closed. So a connection is closed only when its operation has completed. A
//! connection always has exactly one operation in flight, so nothing has to be canceled. No
//! operation has a timeout; only `io_uring_enter` has one.
//!
//! Run: `cargo run -p uring-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/uring-echo.svg`.
//!
//! Use it when: your server spends its time in system calls. With 64 busy clients it makes 0.05 of
//! them per message (epoll-echo: 2.0) and uses 0.9 of epoll-echo's CPU; with one client there is no
//! gain (docs/benchmarks: 64 active, CPU time).
//! Limits: Linux 6.1 or newer, and forbidden in many containers. A receive needs its buffer before
//! the data arrives, so an idle connection holds one (of which only the pages that have been used
//! cost memory).
//! Compare with: `aio-echo/src/main.rs` (completion by threads), `epoll-echo/src/main.rs` (readiness),
//! `uring-echo/src/bin/uring-echo-buffers.rs` (a connection takes a buffer when its data arrives).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, announce, listen, run, stop_socket};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};
use log::{info, trace, warn};
use uring_echo::{
    accept_operation, accept_result, allocate_buffer, end_accept, enter, io_result, new_ring, queue,
};

/// Size of the submission queue. When it is full, the server submits early.
const MAX_OPERATIONS: u32 = 256;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    ring: IoUring,
    /// Results that have not been processed. [`queue`] adds results when the submission queue is
    /// full.
    completions: Vec<cqueue::Entry>,
    /// By file descriptor, which is also the user data of the connection's operations. A descriptor
    /// is closed only when no operation on it is in flight. So a completion cannot be mistaken for
    /// one of a later connection with the same number.
    connections: BTreeMap<RawFd, Connection>,
    /// True after `accept` failed, for example for lack of file descriptors.
    accept_paused: bool,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Only its capacity is used, because only the kernel looks at the bytes.
    buffer: Vec<u8>,
    /// The part of the buffer that is being sent. Empty while the connection receives.
    pending: Range<usize>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let stop = stop_socket()?;
        let ring = new_ring(MAX_OPERATIONS)?;
        let connections = BTreeMap::new();
        let completions = Vec::new();
        let server =
            Server { listener, stop, ring, completions, connections, accept_paused: false };
        announce(server.listener.local_addr()?);
        // Never freed: when `serve` returns, the kernel may still write to the buffers.
        Box::leak(Box::new(server)).serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let stop = self.stop.as_raw_fd();
        self.queue(stop, opcode::PollAdd::new(Fd(stop), libc::POLLIN as u32).build())?;
        self.queue_accept()?;
        loop {
            let must_wait = self.completions.is_empty();
            trace!("wait: io_uring_enter"); // (2)
            enter(&self.ring, must_wait.into(), self.accept_paused.then_some(ACCEPT_RETRY))?;
            self.completions.extend(self.ring.completion());
            trace!("wait: io_uring_enter = {} completed", self.completions.len());

            if self.accept_paused {
                self.queue_accept()?;
            }
            for completion in mem::take(&mut self.completions) {
                let fd = completion.user_data() as RawFd;
                if fd == stop {
                    end_accept(&self.listener);
                    return Ok(());
                } else if fd == self.listener.as_raw_fd() {
                    self.on_accept(io_result(&completion))?;
                } else {
                    self.on_completion(fd, io_result(&completion))?;
                }
            }
        }
    }

    /// Queues an operation. `fd` is its user data, which the kernel returns with the result.
    fn queue(&mut self, fd: RawFd, operation: squeue::Entry) -> anyhow::Result<()> {
        // SAFETY: if the operation has a buffer, it is the heap memory of a connection's `Vec`.
        // `connections` keeps that until the completion, and the server is never dropped. To move
        // the `Vec` neither moves the memory nor invalidates the pointer. (A `Box<[u8]>` would not
        // do: moving it invalidates the pointer under Rust's aliasing rules.)
        unsafe { queue(&mut self.ring, &operation.user_data(fd as u64), &mut self.completions) }
    }

    /// Handles the result of a receive (3) or a send (5), and queues the next operation.
    fn on_completion(&mut self, fd: RawFd, result: io::Result<usize>) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        match result {
            Ok(0) => {
                info!("{} disconnected", connection.peer); // EOF. No output is pending here.
                self.connections.remove(&fd); // closes the socket
                return Ok(());
            }
            Ok(count) if connection.pending.is_empty() => {
                trace!("copy: recv({fd}) = {count}");
                connection.pending = 0..count;
            }
            Ok(count) => {
                trace!("copy: send({fd}) = {count} of {}", connection.pending.len());
                connection.pending.start += count; // Pitfall: short-send-in-a-link
            }
            // SIGSTOP interrupted the kernel thread that carried out the operation: queue it again.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset (ECONNRESET, EPIPE) or a timeout ends this connection only.
            Err(error) => {
                info!("{} disconnected: {error}", connection.peer);
                self.connections.remove(&fd);
                return Ok(());
            }
        }
        let operation = connection.next_operation();
        self.queue(fd, operation)
    }

    fn queue_accept(&mut self) -> anyhow::Result<()> {
        self.accept_paused = false;
        let fd = self.listener.as_raw_fd();
        self.queue(fd, accept_operation(fd))
    }

    fn on_accept(&mut self, result: io::Result<usize>) -> anyhow::Result<()> {
        match accept_result(result) {
            Some(Accepted::Connection(stream, peer)) => self.add(stream, peer)?,
            // Accepts again after the next wait. Pitfalls: accept-spins, spare-descriptor
            Some(Accepted::Pause | Accepted::WouldBlock) => self.accept_paused = true,
            None => {}
        }
        if self.accept_paused { Ok(()) } else { self.queue_accept() }
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        let fd = stream.as_raw_fd();
        let Ok(buffer) = allocate_buffer(BUFFER_SIZE) else {
            warn!("{peer} refused: out of memory");
            return Ok(());
        };
        let mut connection = Connection { stream, peer, buffer, pending: 0..0 };
        let operation = connection.next_operation();
        self.connections.insert(fd, connection);
        self.queue(fd, operation)
    }
}

impl Connection {
    /// Returns the next operation: a send if output is pending (4), otherwise a receive (1).
    fn next_operation(&mut self) -> squeue::Entry {
        let fd = Fd(self.stream.as_raw_fd());
        let bytes = self.buffer.as_mut_ptr();
        // Never both, so pending output is limited to one buffer.
        if self.pending.is_empty() {
            opcode::Recv::new(fd, bytes, BUFFER_SIZE as u32).build()
        } else {
            let rest = bytes.wrapping_add(self.pending.start);
            opcode::Send::new(fd, rest, self.pending.len() as u32).build()
        }
    }
}
