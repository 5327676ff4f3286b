//! epoll, edge-triggered: the kernel says once that something new has come; what there is still
//! to do, the process has to remember.
//!
//! ```text
//!      application                              kernel
//!      epoll_ctl(ADD, 8, ET) ─── once ───────▶  interest list: listener, stop, 7, 8, 9 …
//!  (1) epoll_wait ───────────────────────────▶  ┐
//!        blocked                                │ wait: until something *comes*
//!  (2) news of 8 ◀───────────────────────────   ┘ a message for 8 has arrived
//!  (3) read(8), write(8) ────────────────────▶    copy
//!  (4) … again and again, until ─────────────▶    nothing is left, or nothing more fits:
//!  (1) epoll_wait                                 what is left unread is never reported again
//! ```
//!
//! A message: (1) the thread waits for news of any socket; (2) it notes whom they are of; (3) it
//! copies, (4) until the socket is drained. (5) A peer that sends faster than that would keep
//! the others waiting for ever: it gets so many steps, stays noted, and goes on in the next round,
//! whose wait does not block.
//!
//! Run: `cargo run -p epoll-echo --bin epoll-echo-edge`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/epoll-echo-edge.svg`.
//!
//! Use it when: sockets change often between waiting to read and waiting to write (a proxy): both
//! are asked for once, and no `epoll_ctl` follows. Or several threads share an epoll.
//! Limits: whatever the code forgets stays unread until the peer sends more, which may be never.
//! Compare with: `diff epoll-echo/src/main.rs epoll-echo/src/bin/epoll-echo-edge.rs`.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_socket,
};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Ready sockets taken from the kernel at once. It goes round its list: those that do not fit
/// come first next time.
const EVENTS: usize = 256;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Steps of the copy for one connection in a round: a flood keeps the others waiting no longer.
const STEPS: usize = 4;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: u16 = 100;

/// All news of a connection, asked for once.
const NEWS: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

struct Server {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// Who has something left to copy, and the last news of it.
    ready: HashMap<RawFd, EpollFlags>,
    /// Somebody may still wait to be accepted: no news will say so again.
    incoming: bool,
    /// Out of descriptors.
    starved: bool,
    /// Where a step of the copy keeps its bytes: shared, for no connection leaves any in it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&stop, event(EpollFlags::EPOLLIN, stop.as_raw_fd()))?;
        let connects = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&listener, event(connects, listener.as_raw_fd()))?;
        let (connections, ready, buffer) = (BTreeMap::new(), HashMap::new(), vec![0; BUFFER_SIZE]);
        let (incoming, starved) = (false, false);
        Server { listener, stop, epoll, connections, ready, incoming, starved, buffer }.serve()
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
            let timeout = if !self.ready.is_empty() || self.incoming && !self.starved {
                EpollTimeout::ZERO // (5)
            } else if self.starved {
                EpollTimeout::from(RETRY)
            } else {
                EpollTimeout::NONE
            };
            trace!("wait: epoll_wait"); // (1)
            let news = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => &events[..result?],
            };
            trace!("wait: epoll_wait = news of {}", news.len());

            for event in news {
                match event.data() as RawFd {
                    fd if fd == self.stop.as_raw_fd() => return Ok(()),
                    fd if fd == self.listener.as_raw_fd() => self.incoming = true,
                    fd => drop(self.ready.insert(fd, event.events())), // (2)
                }
            }
            let mut ready = mem::take(&mut self.ready);
            ready.retain(|&fd, &mut news| self.go_on(fd, news));
            self.ready = ready;
            // Last: a descriptor closed above may come back as a new connection's, and no news
            // of the old one's is left to be mistaken for its own.
            if self.incoming {
                self.accept_some()?;
            }
        }
    }

    /// Steps of the copy until the socket is drained (3, 4); whether there is something left.
    fn go_on(&mut self, fd: RawFd, news: EpollFlags) -> bool {
        let Some(connection) = self.connections.get_mut(&fd) else { return false };
        // Pitfalls: one-read-per-edge, edge-without-budget
        for _ in 0..STEPS {
            match connection.step(&mut self.buffer) {
                // A read that did not fill the buffer has emptied the socket, and what comes now
                // is news again (epoll(7), question 9). But a FIN that has come already is not:
                // then read on, to the end of the input. Pitfall: hangup-closes
                Progress::Echoed(count)
                    if count < BUFFER_SIZE && !news.contains(EpollFlags::EPOLLRDHUP) =>
                {
                    return false;
                }
                Progress::Echoed(_) => {}
                Progress::WantRead | Progress::WantWrite => return false,
                Progress::Closed => {
                    // Closing takes it out of the interest list, as there is no duplicate of it.
                    self.connections.remove(&fd);
                    return false;
                }
            }
        }
        true
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(Connection::new(stream, peer)?),
                Accepted::WouldBlock => {
                    self.incoming = false;
                    break;
                }
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.starved = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, connection: Connection) {
        let fd = connection.as_raw_fd();
        // What came before this counts as news too.
        match self.epoll.add(&connection, event(NEWS, fd)) {
            Ok(()) => drop(self.connections.insert(fd, connection)),
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            Err(error) => warn!("descriptor {fd} refused: {error}"),
        }
    }
}
