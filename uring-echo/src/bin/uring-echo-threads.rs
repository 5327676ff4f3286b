//! `io_uring` on all cores: each thread has its own ring, its own listener and its own connections.
//!
//! ```text
//!      thread A, ring A              kernel                       thread B, ring B
//!      listener A: port 7000         a hash of the addresses      listener B: port 7000
//!        accept = 8                  chooses the listener           accept = 9
//!  (1) recv(8, buffer) ── queue ──▶  ┐                            recv(9, buffer)
//!  (2) io_uring_enter ────────────▶  │ wait, for each ring ◀───── io_uring_enter
//!  (3) recv(8) = 6 ◀── queue ─────   ┘ copy                         asleep
//!  (4) send(8, buffer) ── queue ──▶    copy                         asleep
//! ```
//!
//! How a message travels: as in `uring-echo`. (1) The thread queues a receive, (2) submits it and
//! waits, (3) finds the message in the buffer, and (4) queues a send, (5) again if it was short.
//!
//! The catch: a ring cannot simply be shared. Its queues are made for one thread, so several would
//! need a lock. A completion could wake a thread that does not know the connection. And the kernel
//! finishes an operation in the thread that submitted it: with `SINGLE_ISSUER`, no other thread may
//! submit. So each thread has a listener of its own on the same port (`SO_REUSEPORT`).
//!
//! Run: `cargo run -p uring-echo --bin uring-echo-threads`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/uring-echo-threads.svg`.
//!
//! Use it when: you would use `uring-echo`, and one core is not enough.
//! Limits: as `uring-echo`. And the hash ignores load: one thread can be busy while another has no client.
//! Compare with: `diff uring-echo/src/main.rs uring-echo/src/bin/uring-echo-threads.rs` (one thread).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, announce, listen_shared, run, stop_socket};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};
use log::{info, trace, warn};
use uring_echo::{
    accept_operation, accept_result, allocate_buffer, end_accept, enter, io_result, new_ring, queue,
};

/// Size of the submission queue. When it is full, the server submits early.
const MAX_OPERATIONS: u32 = 256;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

type Results = mpsc::Sender<anyhow::Result<()>>;

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    ring: IoUring,
    completions: Vec<cqueue::Entry>,
    /// By file descriptor, as in `uring-echo`.
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
        let count = thread::available_parallelism()?.get();
        let listeners = listen_shared(&addr, count)?;
        let address = listeners[0].local_addr()?;
        let stop = stop_socket()?;
        // Each thread sends a result when its ring is ready, and one when it ends.
        let (sender, results) = mpsc::channel();
        for listener in listeners {
            let stop = stop.try_clone()?;
            let sender = sender.clone();
            let work = move || sender.send(Server::run(listener, stop, &sender));
            thread::Builder::new().spawn(work).context("cannot start a thread")?;
        }
        (0..count).try_for_each(|_| results.recv()?)?;
        announce(address);
        (0..count).try_for_each(|_| results.recv()?)
    })
}

impl Server {
    fn run(listener: TcpListener, stop: UnixStream, results: &Results) -> anyhow::Result<()> {
        let ring = new_ring(MAX_OPERATIONS)?; // the ring of this thread
        results.send(Ok(()))?;
        let connections = BTreeMap::new();
        let completions = Vec::new();
        let server = Self { listener, stop, ring, completions, connections, accept_paused: false };
        // Never freed: when `serve` returns, the kernel may still write to the buffers.
        Box::leak(Box::new(server)).serve()
    }

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
        // SAFETY: `connections` keeps the `Vec` until the completion, as in `uring-echo`.
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
