//! epoll, level-triggered: the kernel keeps the list of the sockets that one thread waits for,
//! and each wait hands back those that are ready.
//!
//! ```text
//!      application                              kernel
//!      epoll_ctl(ADD, 8) ────── once ────────▶  interest list: listener, stop, 7, 8, 9 …
//!  (1) epoll_wait ───────────────────────────▶  ┐
//!        blocked                                │ wait: until one of them is ready
//!  (2) 8 is readable ◀───────────────────────   ┘ a message for 8 has arrived
//!  (3) read(8) ──────────────────────────────▶  ┐ copy: it is there already,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy, as much as fits
//! ```
//!
//! A message: (1) the thread waits for all sockets at once; (2) the kernel names the ready ones,
//! and only those, however many are idle; (3) one read; (4) one write. (5) What the write leaves is
//! owed: until that is gone, the wait is for the socket to be writable, and not readable.
//!
//! Run: `cargo run -p epoll-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/epoll-echo.svg`.
//!
//! Use it when: you serve many connections of which few are busy. It is the default on Linux.
//! Limits: Linux only. A change of interest is a system call of its own.
//! Compare with: `diff poll-echo/src/main.rs epoll-echo/src/main.rs` (who keeps the list),
//! `diff epoll-echo/src/main.rs epoll-echo/src/bin/epoll-echo-edge.rs` (what "ready" means).

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use common::{Accepted, BUFFER, Connection, ECHO_ADDR, Next, accept, listen, run, stop_socket};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Ready sockets taken from the kernel at once, which goes round its list: those that do not fit
/// come first next time.
const EVENTS: usize = 256;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: u16 = 100;

struct Server {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// Out of descriptors: the listener is not waited for, as it would be ready all the time.
    starved: bool,
    /// Where a step of the copy keeps its bytes: shared, for no connection leaves any in it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&stop, event(EpollFlags::EPOLLIN, stop.as_raw_fd()))?;
        epoll.add(&listener, event(EpollFlags::EPOLLIN, listener.as_raw_fd()))?;
        let (connections, buffer) = (BTreeMap::new(), vec![0; BUFFER]);
        Server { listener, stop, epoll, connections, starved: false, buffer }.serve()
    })
}

/// An entry of the interest list; the descriptor rides along and names the socket in the answer.
fn event(interest: EpollFlags, fd: RawFd) -> EpollEvent {
    EpollEvent::new(interest, fd as u64)
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let timeout = if self.starved { EpollTimeout::from(RETRY) } else { EpollTimeout::NONE };
            trace!("wait: epoll_wait"); // (1)
            let ready = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => &events[..result?],
            };
            trace!("wait: epoll_wait = {} ready", ready.len()); // (2)

            let mut incoming = self.starved;
            for event in ready {
                match event.data() as RawFd {
                    fd if fd == self.stop.as_raw_fd() => return Ok(()),
                    fd if fd == self.listener.as_raw_fd() => incoming = true,
                    fd => self.go_on(fd)?,
                }
            }
            // Last: a new connection may get the number of a descriptor closed above. By now no
            // event of the old one is left that could be taken for the new one's.
            if incoming {
                self.accept_some()?;
            }
        }
    }

    /// One step of the copy (3, 4), and what it says the socket waits for now (5).
    fn go_on(&mut self, fd: RawFd) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        let owed = connection.owes();
        let next = connection.go_on(&mut self.buffer);
        if next == Next::Close {
            // Closing takes it out of the interest list: no other descriptor is of this socket.
            self.connections.remove(&fd);
        } else if connection.owes() != owed {
            // Pitfall: writable-left-armed
            let interest = if owed { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
            self.epoll.modify(&*connection, &mut event(interest, fd))?;
        }
        Ok(())
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        let was_starved = self.starved;
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener)? {
                Accepted::Connection(stream, peer) => self.add(Connection::new(stream, peer)?),
                Accepted::NobodyWaits => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::OutOfDescriptors => {
                    self.starved = true;
                    break;
                }
            }
        }
        if self.starved != was_starved {
            let interest = if self.starved { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            let fd = self.listener.as_raw_fd();
            self.epoll.modify(&self.listener, &mut event(interest, fd))?;
        }
        Ok(())
    }

    fn add(&mut self, connection: Connection) {
        let fd = connection.as_raw_fd();
        match self.epoll.add(&connection, event(EpollFlags::EPOLLIN, fd)) {
            Ok(()) => drop(self.connections.insert(fd, connection)),
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            Err(error) => warn!("descriptor {fd} refused: {error}"),
        }
    }
}
