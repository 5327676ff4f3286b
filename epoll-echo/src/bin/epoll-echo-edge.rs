//! epoll, edge-triggered: the kernel reports once that a socket has become ready. Such a report is
//! an edge. The process must remember which sockets it has not emptied yet.
//!
//! ```text
//!      application                              kernel
//!      epoll_ctl(ADD, 8, ET) ─── once ───────▶  interest list: listener, stop, 7, 8, 9 …
//!  (1) epoll_wait ───────────────────────────▶  ┐
//!        asleep                                 │ wait: until a socket *becomes* ready
//!  (2) an edge of 8 ◀────────────────────────   ┘ a message for 8 has arrived
//!  (3) read(8), write(8), again and again ───▶    copy
//!  (4) read(8) = EAGAIN ◀────────────────────     empty: the next message is a new edge
//! ```
//!
//! How a message travels: (1) One thread waits for an edge of any socket. (2) It puts each socket
//! with an edge into the set `ready`. (3) It reads and writes each socket of the set (4) until
//! EAGAIN, and then removes the socket. (5) A client that never stops sending gets `MAX_STEPS` steps
//! per iteration. Its socket then stays in the set, and the next wait returns at once.
//!
//! The catch: data that the server leaves unread is reported again only when more data arrives,
//! which may be never. So read until EAGAIN, even after a short read: a FIN or urgent data may be
//! behind the data, and no further edge reports it. (epoll(7), question 9, calls a short read
//! sufficient. For TCP it is not.)
//!
//! Run: `cargo run -p epoll-echo --bin epoll-echo-edge`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/epoll-echo-edge.svg`.
//!
//! Use it when: sockets alternate often between waiting to read and waiting to write, as in a
//! proxy. One `epoll_ctl` registers both, and no later one is needed.
//! Limits: Linux only. Each message costs one more `read`, which returns EAGAIN. Two threads that
//! share an epoll can both get an edge of one socket: use EPOLLONESHOT (edge-shared-by-threads).
//! Compare with: `diff epoll-echo/src/main.rs epoll-echo/src/bin/epoll-echo-edge.rs` ("it *is*
//! ready" against "it *became* ready", reported once).

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, BUFFER_SIZE, ECHO_ADDR, Progress, accept, announce, listen, run, stop_socket,
};
use log::{info, trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The most read/write steps per connection and iteration.
const MAX_STEPS: usize = 4;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// The connections that had an edge and have not returned EAGAIN since.
    ready: HashSet<RawFd>,
    /// When to call `accept` again without a new edge of the listener. `None`: not at all.
    accept_again: Option<Duration>,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    pending: Vec<u8>, // bytes that were read, and not yet written because the send buffer was full
    offset: usize,    // how many bytes of `pending` have been written since
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let stop = stop_socket()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let interest = EpollFlags::EPOLLIN;
        epoll.add(&stop, event(interest, &stop)).context("epoll_ctl(ADD, stop)")?;
        epoll.add(&listener, event(interest, &listener)).context("epoll_ctl(ADD, listener)")?;
        let mut server = Server {
            listener,
            stop,
            epoll,
            connections: BTreeMap::new(),
            ready: HashSet::new(),
            accept_again: None,
            buffer: vec![0; BUFFER_SIZE],
        };
        announce(server.listener.local_addr()?);
        server.serve()
    })
}

/// Makes an entry of the interest list. `epoll_wait` returns its user data: the file descriptor.
fn event(interest: EpollFlags, socket: &impl AsFd) -> EpollEvent {
    EpollEvent::new(interest | EpollFlags::EPOLLET, socket.as_fd().as_raw_fd() as u64)
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            let timeout = match self.accept_again {
                _ if !self.ready.is_empty() => EpollTimeout::ZERO, // (5)
                Some(pause) => EpollTimeout::try_from(pause)?,
                None => EpollTimeout::NONE,
            };
            trace!("wait: epoll_wait"); // (1)
            let edges = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => &events[..count],
                // A signal handler ran, or SIGSTOP and SIGCONT arrived. Pitfall: eintr-fatal
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} edges", edges.len()); // (2)
            for event in edges {
                let fd = event.data() as RawFd;
                if fd == self.stop.as_raw_fd() {
                    return Ok(()); // dropping the server closes all sockets, and the process ends
                } else if fd == self.listener.as_raw_fd() {
                    self.accept_again = Some(Duration::ZERO);
                } else {
                    self.ready.insert(fd);
                }
            }
            // A connection that is closed must leave the set at once: the set outlives this
            // iteration, and the next connection may get the same file descriptor.
            let mut ready = std::mem::take(&mut self.ready);
            ready.retain(|&fd| self.on_ready(fd));
            self.ready = ready;
            // Last: existing clients come first, and closed connections have freed descriptors.
            if self.accept_again.is_some() {
                self.accept_again = self.accept_some()?;
            }
        }
    }

    /// Reads and writes (3) until EAGAIN (4). Returns true if the socket must stay in `ready` (5).
    /// Pitfalls: one-read-per-edge, edge-without-budget, short-read-taken-for-empty
    fn on_ready(&mut self, fd: RawFd) -> bool {
        let Some(connection) = self.connections.get_mut(&fd) else { return false };
        for _ in 0..MAX_STEPS {
            match connection.step(&mut self.buffer) {
                Ok(Progress::Echoed(_)) => continue,
                Ok(Progress::WantRead | Progress::WantWrite) => return false,
                Ok(Progress::Closed) => info!("{} disconnected", connection.peer),
                // ECONNRESET, EPIPE, ETIMEDOUT: ends this connection only. Pitfall: peer-error-ends
                Err(error) => info!("{} disconnected: {error}", connection.peer),
            }
            self.connections.remove(&fd);
            return false;
        }
        true
    }

    /// Accepts until EAGAIN: no edge reports connections that are left in the queue. Returns when to
    /// call it again. Pitfall: one-accept-per-edge
    fn accept_some(&mut self) -> anyhow::Result<Option<Duration>> {
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
                Accepted::WouldBlock => return Ok(None), // the next connection is an edge
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => return Ok(Some(ACCEPT_RETRY)),
            }
        }
        Ok(Some(Duration::ZERO))
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        stream.set_nonblocking(true)?;
        let fd = stream.as_raw_fd();
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        // The socket is writable, so this reports an edge at once, with or without data.
        if let Err(error) = self.epoll.add(&stream, event(interest, &stream)) {
            // ENOSPC (the user's limit, fs.epoll.max_user_watches) or ENOMEM.
            warn!("{peer} refused: epoll_ctl(ADD): {error}");
            return Ok(());
        }
        self.connections.insert(fd, Connection { stream, peer, pending: Vec::new(), offset: 0 });
        Ok(())
    }
}

impl Connection {
    /// Writes pending output, or reads once and writes that back.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Progress> {
        if self.offset < self.pending.len() {
            let written = common::write(&self.stream, &self.pending[self.offset..])?; // 0 for EAGAIN
            self.offset += written;
            return Ok(if written == 0 { Progress::WantWrite } else { Progress::Echoed(written) });
        }
        self.pending = Vec::new();
        self.offset = 0;
        let count = match common::read(&self.stream, buffer)? {
            None => return Ok(Progress::WantRead),  // EAGAIN
            Some(0) => return Ok(Progress::Closed), // EOF. No output is pending here.
            Some(count) => count,
        };
        let written = common::write(&self.stream, &buffer[..count])?;
        self.pending.extend_from_slice(&buffer[written..count]);
        Ok(Progress::Echoed(written))
    }
}
