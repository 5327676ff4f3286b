//! `io_uring` with provided buffers: the process gives the kernel a group of buffers for all
//! sockets. A receive takes one of them when data arrives, so an idle connection has none.
//!
//! ```text
//!      application                              kernel
//!      register(buffers) ─────── once ───────▶  free: 0, 1, 2, 3 …
//!  (1) recv(8, any buffer) ── queue ─────────▶  ┐
//!  (2) io_uring_enter ───────────────────────▶  │ wait: until data for 8 arrives
//!        asleep                                 ┘ a message has arrived
//!        asleep                                 ┐ copy: into buffer 0
//!  (3) recv(8) = 6, buffer 0 ◀─── queue ─────   ┘ completion
//!  (4) send(8, buffer 0) ──── queue ─────────▶    copy: as much as the send buffer takes
//!  (5) buffer 0 ─────────────────────────────▶  free: 1, 2, 3 … 0
//! ```
//!
//! How a message travels: (1) The server queues a receive that names no buffer. (2) One call submits
//! all queued operations, and waits. (3) The completion names the buffer that the kernel has taken.
//! (4) The server queues a send of it, which does not wait for space. What is not sent (pending
//! output), it copies for a second send, which waits. (5) It always gives the buffer back.
//!
//! The catch: a receive that finds no free buffer fails with ENOBUFS as soon as data is there.
//! Queued again at once, it would fail again. (6) The server queues it again when a buffer is free.
//!
//! Why not multishot: such a receive takes buffers while the client does not read, so it must be
//! canceled then. It costs as much CPU here. Pitfall: multishot-no-backpressure
//!
//! Run: `cargo run -p uring-echo --bin uring-echo-buffers`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/uring-echo-buffers.svg`.
//!
//! Use it when: most of your connections are idle. With 64 busy ones it takes 0.94 of epoll-echo's CPU,
//! as much as uring-echo, but only 212 bytes per idle connection (docs/benchmarks/io-uring).
//! Limits: Linux 6.1 or newer, and forbidden in many containers.
//! Compare with: `diff uring-echo/src/main.rs uring-echo/src/bin/uring-echo-buffers.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, announce, listen, run, stop_socket};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};
use log::{info, trace};
use uring_echo::{
    Buffers, Filled, accept_result, end_accept, enter, io_result, new_ring, queue, unsent,
};

/// Size of the submission queue. When it is full, the server submits early.
const MAX_OPERATIONS: u32 = 256;
/// How many buffers the connections share. If more have data, the others wait (6).
const BUFFER_COUNT: u16 = 64;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    ring: IoUring,
    completions: Vec<cqueue::Entry>,
    buffers: Buffers,
    /// By file descriptor, as in `uring-echo`.
    connections: BTreeMap<RawFd, Connection>,
    /// Connections whose receive has found no free buffer (6).
    waiting: VecDeque<RawFd>,
    /// True after `accept` failed, for example for lack of file descriptors.
    accept_paused: bool,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// The buffer that is being sent (4).
    filled: Option<Filled>,
    /// The part of a buffer that was not sent. While both are empty, the connection receives.
    pending: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let stop = stop_socket()?;
        let ring = new_ring(MAX_OPERATIONS)?;
        let buffers = Buffers::register(&ring, BUFFER_COUNT, BUFFER_SIZE)?;
        announce(listener.local_addr()?);
        // Never freed: when `serve` returns, the kernel may still read pending output.
        let server = Box::leak(Box::new(Server {
            listener,
            stop,
            ring,
            completions: Vec::new(),
            buffers,
            connections: BTreeMap::new(),
            waiting: VecDeque::new(),
            accept_paused: false,
        }));
        server.serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let stop = self.stop.as_raw_fd();
        self.queue(stop, opcode::PollAdd::new(Fd(stop), libc::POLLIN as u32).build())?;
        self.queue_accept()?;
        loop {
            let can_receive = !self.waiting.is_empty() && self.buffers.available() > 0;
            let must_wait = self.completions.is_empty() && !can_receive;
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
                    self.on_accept(&completion)?;
                } else {
                    self.on_completion(fd, &completion)?;
                }
            }
            for _ in 0..self.buffers.available() {
                let Some(fd) = self.waiting.pop_front() else { break };
                self.queue(fd, self.buffers.receive(Fd(fd)))?; // (6)
            }
        }
    }

    /// Queues an operation. `fd` is its user data, which the kernel returns with the result.
    fn queue(&mut self, fd: RawFd, operation: squeue::Entry) -> anyhow::Result<()> {
        // SAFETY: `connections` keeps the `Filled` or `Vec` until the completion, as in `uring-echo`.
        unsafe { queue(&mut self.ring, &operation.user_data(fd as u64), &mut self.completions) }
    }

    fn on_completion(&mut self, fd: RawFd, completion: &cqueue::Entry) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        match connection.advance(completion, &mut self.buffers) {
            Ok(Some(operation)) => return self.queue(fd, operation),
            Ok(None) => info!("{} disconnected", connection.peer), // EOF
            // (6) The receive found no buffer (pitfall: enobufs-spins), or SIGSTOP interrupted it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {
                self.waiting.push_back(fd);
                return Ok(());
            }
            // A reset (ECONNRESET, EPIPE) or a timeout ends this connection only.
            Err(error) => info!("{} disconnected: {error}", connection.peer),
        }
        self.connections.remove(&fd); // closes the socket
        Ok(())
    }

    /// Queues one accept that completes for each connection, until it ends ("multishot").
    fn queue_accept(&mut self) -> anyhow::Result<()> {
        self.accept_paused = false;
        let fd = self.listener.as_raw_fd();
        self.queue(fd, opcode::AcceptMulti::new(Fd(fd)).flags(libc::SOCK_CLOEXEC).build())
    }

    fn on_accept(&mut self, completion: &cqueue::Entry) -> anyhow::Result<()> {
        match accept_result(io_result(completion)) {
            Some(Accepted::Connection(stream, peer)) => {
                let fd = stream.as_raw_fd();
                let connection = Connection { stream, peer, filled: None, pending: Vec::new() };
                self.connections.insert(fd, connection);
                self.queue(fd, self.buffers.receive(Fd(fd)))?; // (1)
            }
            // Accepts again after the next wait. Pitfalls: accept-spins, spare-descriptor
            Some(Accepted::Pause) => self.accept_paused = true,
            Some(Accepted::WouldBlock) | None => {}
        }
        // The accept stays in flight until a completion lacks this flag. Pitfall: cqe-more-ignored
        let ended = !cqueue::more(completion.flags());
        if ended && !self.accept_paused { self.queue_accept() } else { Ok(()) }
    }
}

impl Connection {
    /// Takes the result of an operation, and returns the next operation, or `None` at EOF.
    fn advance(
        &mut self,
        completion: &cqueue::Entry,
        buffers: &mut Buffers,
    ) -> io::Result<Option<squeue::Entry>> {
        let fd = self.stream.as_raw_fd();
        if self.filled.is_none() && self.pending.is_empty() {
            self.filled = buffers.filled(completion); // (3) A failed receive may have taken one.
            let count = io_result(completion)?;
            trace!("copy: recv({fd}) = {count}");
            return Ok(self.filled.as_ref().map(|filled| buffers.send(Fd(fd), filled))); // (4)
        }
        let sent = self.filled.take();
        let bytes = sent.as_ref().map_or(self.pending.as_slice(), |sent| buffers.bytes(sent));
        let rest = unsent(fd, bytes, io_result(completion));
        if let Some(sent) = sent {
            buffers.give_back(sent); // (5)
        }
        self.pending = rest.map_err(io::Error::other)?; // `other` hides ENOBUFS of a send from (6)
        if self.pending.is_empty() {
            return Ok(Some(buffers.receive(Fd(fd)))); // (1); pitfall: multishot-no-backpressure
        }
        let length = self.pending.len() as u32;
        Ok(Some(opcode::Send::new(Fd(fd), self.pending.as_ptr(), length).build()))
    }
}
