//! epoll on all cores, one listener: each thread has an event loop and connections of its own. All
//! loops watch the same listener, and the kernel wakes one of them per connection (`EPOLLEXCLUSIVE`).
//!
//! ```text
//!      loop 0                        kernel                       loop 1
//!      epoll_ctl(ADD, EXCLUSIVE) ─▶  listener: loop 0, loop 1 ◀── epoll_ctl(ADD, EXCLUSIVE)
//!        accept = 8 ◀─────────────   wakes the first that sleeps    asleep
//!  (1) epoll_wait ───────────────▶   ┐ wait, for each loop   ◀─── epoll_wait
//!  (2) 8 is readable ◀───────────    ┘                              asleep
//!  (3) read(8) ──────────────────▶     copy                         asleep
//!  (4) write(8) ─────────────────▶     copy                         asleep
//! ```
//!
//! How a message travels: within one loop, as in `epoll-echo`. (1) The loop waits. (2) The kernel
//! returns the ready sockets. (3) The loop reads once and (4) writes once. (5) While bytes are
//! pending, it watches the socket for writing and not for reading.
//!
//! The catch: an idle server gives all connections to one loop. The kernel examines the loops in the
//! order in which they added the listener, and wakes the first that sleeps. (Often called LIFO. Threads
//! that block in `accept` take turns: FIFO.) The second loop gets a connection only while the first is
//! busy. So if many clients connect to an idle server, one loop may have them all. nginx
//! therefore deletes and adds its listener now and then, which moves it to the end of the order.
//!
//! Run: `cargo run -p epoll-echo --bin epoll-echo-exclusive`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/epoll-echo-exclusive.svg`.
//!
//! Use it when: one core is not enough, and a new client should not wait for a busy loop while one sleeps.
//! Limits: as `epoll-echo`. An entry with `EPOLLEXCLUSIVE` cannot be modified, only deleted and added.
//! Compare with: `diff epoll-echo/src/bin/epoll-echo-reuseport.rs
//! epoll-echo/src/bin/epoll-echo-exclusive.rs` (a listener per loop).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, LOOPS, Progress, accept, announce, listen,
    loop_count, run, stop_socket,
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

/// Without EPOLLEXCLUSIVE, each connection would wake all loops. Pitfall: thundering-herd
const LISTENER: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLEXCLUSIVE);

type Results = mpsc::Sender<anyhow::Result<()>>;

/// One loop. Its thread owns all but the listener, so nothing needs a lock.
struct Server {
    listener: Arc<TcpListener>,
    /// Becomes readable when SIGINT or SIGTERM arrives. No loop reads it, so it wakes all of them.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// True after `accept` failed, for example for lack of file descriptors. This loop then does not
    /// watch the listener, because the connections in its queue would end every wait at once.
    accept_paused: bool,
    /// The read buffer. All connections of the loop share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR, LOOPS], |[addr, loops]| {
        let count = loop_count(&loops)?;
        let listener = Arc::new(listen(&addr)?);
        listener.set_nonblocking(true)?; // another loop may be faster, and `accept` would block
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        // Each loop sends a result when it is ready, and one when it ends.
        let (sender, results) = mpsc::channel();
        for number in 0..count {
            let listener = Arc::clone(&listener);
            let stop = stop.try_clone()?;
            let sender = sender.clone();
            let work = move || sender.send(Server::run(listener, stop, &sender));
            let thread = thread::Builder::new().name(format!("loop {number}"));
            thread.spawn(work).context("cannot start a thread")?;
        }
        (0..count).try_for_each(|_| results.recv()?)?;
        announce(address);
        (0..count).try_for_each(|_| results.recv()?) // an error ends the process, with all loops
    })
}

/// Makes an entry of the interest list. `epoll_wait` returns its user data: the file descriptor.
fn event(interest: EpollFlags, socket: &impl AsFd) -> EpollEvent {
    EpollEvent::new(interest, socket.as_fd().as_raw_fd() as u64)
}

impl Server {
    /// Runs in the loop's thread, so that the loops do not allocate memory from the same arena.
    fn run(listener: Arc<TcpListener>, stop: UnixStream, results: &Results) -> anyhow::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        epoll.add(&stop, event(EpollFlags::EPOLLIN, &stop)).context("epoll_ctl(ADD, stop)")?;
        epoll.add(&*listener, event(LISTENER, &*listener)).context("epoll_ctl(ADD, listener)")?;
        let connections = BTreeMap::new();
        let buffer = vec![0; BUFFER_SIZE];
        results.send(Ok(()))?;
        Self { listener, stop, epoll, connections, accept_paused: false, buffer }.serve()
    }

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

    /// The kernel rejects `EPOLL_CTL_MOD` for an entry with EPOLLEXCLUSIVE (EINVAL). Other loops still
    /// watch the listener, so a connection that arrives meanwhile wakes one of them.
    fn set_accept_paused(&mut self, paused: bool) -> anyhow::Result<()> {
        if paused && !self.accept_paused {
            self.epoll.delete(&*self.listener).context("epoll_ctl(DEL, listener)")?;
            self.accept_paused = true;
        } else if !paused && self.accept_paused {
            let added = self.epoll.add(&*self.listener, event(LISTENER, &*self.listener));
            self.accept_paused = added.is_err(); // without a free watch (ENOSPC) it stays paused
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
