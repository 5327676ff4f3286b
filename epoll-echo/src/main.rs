//! epoll, level-triggered: the kernel keeps the list of sockets. Each wait returns the ones that
//! are ready. As long as a socket is ready, wait after wait reports it again.
//!
//! ```text
//!      application                              kernel
//!      epoll_ctl(ADD, 8) ────── once ────────▶  interest list: listener, stop, 7, 8, 9 …
//!  (1) epoll_wait ───────────────────────────▶  ┐
//!        asleep                                 │ wait: until a socket of the list is ready
//!  (2) 8 is readable ◀───────────────────────   ┘ a message for 8 has arrived
//!  (3) read(8) ──────────────────────────────▶  ┐ copy: the data is already there,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy: as much as the send buffer takes
//! ```
//!
//! How a message travels: (1) One thread waits for all sockets at once. (2) The kernel returns only
//! the sockets that are ready, no matter how many others are idle. (3) The server reads once and
//! (4) writes once. (5) Bytes that the socket does not take are pending output. Until they are
//! written, the server watches this socket for writing and not for reading. The server reads only
//! while nothing is pending. So at EOF nothing is pending, and the server closes the connection.
//!
//! The catch: one thread serves all ready sockets one after the other, so a slow step delays the
//! rest. A step is therefore short: at most one write of pending output, one read, and one write.
//!
//! Run: `cargo run -p epoll-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/epoll-echo.svg`.
//!
//! Use it when: you serve many connections of which few are busy. It is the usual choice on Linux.
//! Limits: Linux only. Each change of interest costs a system call (`epoll_ctl`).
//! Compare with:
//! - `diff poll-echo/src/main.rs epoll-echo/src/main.rs`: with poll, the process keeps the list of
//!   sockets; with epoll, the kernel does.
//! - `diff epoll-echo/src/main.rs epoll-echo/src/bin/epoll-echo-edge.rs`: level-triggered reports
//!   that a socket *is* ready, edge-triggered reports once that it *became* ready.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_socket,
};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// True after `accept` failed, for example for lack of file descriptors. The listener is then
    /// not watched, because the connections in its queue would end every wait at once.
    accept_paused: bool,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        // A connection can make the listener ready and be gone before `accept` is called. A
        // blocking `accept` would then sleep (accept(2), "NOTES").
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // After `listen`, so that SIGINT still ends the process during a slow name look-up.
        // Pitfall: signal-deferred-at-start
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
            accept_paused: false,
            buffer: vec![0; BUFFER_SIZE],
        };
        announce(address);
        server.serve()
    })
}

/// Makes an entry of the interest list. `epoll_wait` returns its user data: the file descriptor.
fn event(interest: EpollFlags, socket: &impl AsFd) -> EpollEvent {
    EpollEvent::new(interest, socket.as_fd().as_raw_fd() as u64)
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            let timeout = if self.accept_paused {
                EpollTimeout::try_from(ACCEPT_RETRY)?
            } else {
                EpollTimeout::NONE
            };
            trace!("wait: epoll_wait"); // (1)
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => &events[..count],
                // A signal handler ran, or SIGSTOP and SIGCONT arrived. Pitfall: eintr-fatal
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} ready", ready.len()); // (2)
            let mut listener_ready = false;
            for event in ready {
                let fd = event.data() as RawFd;
                if fd == self.stop.as_raw_fd() {
                    return Ok(()); // dropping the server closes all sockets, and the process ends
                } else if fd == self.listener.as_raw_fd() {
                    listener_ready = true;
                } else {
                    // Readable, writable, error or hang-up: the next read or write shows which.
                    self.on_ready(fd)?;
                }
            }
            // Last: existing clients come first, and closed connections have freed descriptors.
            if listener_ready || self.accept_paused {
                self.accept_some()?;
            }
        }
    }

    /// Reads and writes (3, 4). Then changes the interest if that is necessary (5).
    fn on_ready(&mut self, fd: RawFd) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        let was_pending = connection.has_pending_output();
        if connection.step(&mut self.buffer) == Progress::Closed {
            // Dropping the connection closes its only file descriptor. The kernel then takes the
            // socket off the interest list.
            self.connections.remove(&fd);
            return Ok(());
        }
        let is_pending = connection.has_pending_output();
        if is_pending != was_pending {
            // While output is pending, watch EPOLLOUT and not EPOLLIN: unread input would make
            // every wait return at once. Otherwise do not watch EPOLLOUT: an idle socket is always
            // writable. Pitfall: writable-left-armed
            let interest = if is_pending { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            let mut event = event(interest, connection);
            self.epoll.modify(&*connection, &mut event).context("epoll_ctl(MOD, connection)")?;
        }
        Ok(())
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => {
                    self.set_accept_paused(false)?;
                    self.add(stream, peer)?;
                }
                Accepted::WouldBlock => return self.set_accept_paused(false),
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => return self.set_accept_paused(true),
            }
        }
        Ok(())
    }

    fn set_accept_paused(&mut self, paused: bool) -> anyhow::Result<()> {
        if paused != self.accept_paused {
            self.accept_paused = paused;
            let interest = if paused { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            let mut event = event(interest, &self.listener);
            self.epoll.modify(&self.listener, &mut event).context("epoll_ctl(MOD, listener)")?;
        }
        Ok(())
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        let fd = stream.as_raw_fd();
        if let Err(error) = self.epoll.add(&stream, event(EpollFlags::EPOLLIN, &stream)) {
            // ENOSPC (the user's limit, fs.epoll.max_user_watches) or ENOMEM.
            warn!("{peer} refused: epoll_ctl(ADD): {error}");
            return Ok(());
        }
        self.connections.insert(fd, Connection::new(stream, peer)?);
        Ok(())
    }
}
