//! epoll on all cores, with nothing shared: each thread has an event loop, a listener and
//! connections of its own. (One loop per thread. The option that makes it possible is `SO_REUSEPORT`.)
//!
//! ```text
//!      loop 0                        kernel                       loop 1
//!      listener A: port 7000         a hash of the addresses      listener B: port 7000
//!        accept = 8                  chooses the listener           accept = 9
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
//! The catch: the hash ignores load. A loop that is busy still gets its share of the new connections,
//! and they wait in the queue of its listener although another loop may be idle. And if a program
//! closes one of the listeners, the kernel resets the connections in that queue (unless the sysctl
//! `net.ipv4.tcp_migrate_req` is set). So do not change the number of loops while clients connect.
//!
//! Run: `cargo run -p epoll-echo --bin epoll-echo-reuseport`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/epoll-echo-reuseport.svg`.
//!
//! Use it when: one core is not enough, and connections are many, short, or similar in load.
//! Limits: as `epoll-echo`. A connection stays with its loop, however busy that loop becomes.
//! Compare with:
//! - `diff epoll-echo/src/main.rs epoll-echo/src/bin/epoll-echo-reuseport.rs`: one loop.
//! - `diff epoll-echo/src/bin/epoll-echo-reuseport.rs epoll-echo/src/bin/epoll-echo-exclusive.rs`:
//!   all loops share one listener, and a loop that is idle takes the connection.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, LOOPS, Progress, accept, announce, listen_shared,
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

type Results = mpsc::Sender<anyhow::Result<()>>;

/// One loop. Its thread owns all that it uses, so nothing needs a lock.
struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives. No loop reads it, so it wakes all of them.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// True after `accept` failed, for example for lack of file descriptors. The listener is then
    /// not watched, because the connections in its queue would end every wait at once.
    accept_paused: bool,
    /// The read buffer. All connections of the loop share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR, LOOPS], |[addr, loops]| {
        let count = loop_count(&loops)?;
        let listeners = listen_shared(&addr, count)?;
        let address = listeners[0].local_addr()?;
        let stop = stop_socket()?;
        // Each loop sends a result when it is ready, and one when it ends.
        let (sender, results) = mpsc::channel();
        for (number, listener) in listeners.into_iter().enumerate() {
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
    fn run(listener: TcpListener, stop: UnixStream, results: &Results) -> anyhow::Result<()> {
        // A connection can make the listener ready and be gone before `accept` is called. A
        // blocking `accept` would then sleep (accept(2), "NOTES").
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let interest = EpollFlags::EPOLLIN;
        epoll.add(&stop, event(interest, &stop)).context("epoll_ctl(ADD, stop)")?;
        epoll.add(&listener, event(interest, &listener)).context("epoll_ctl(ADD, listener)")?;
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
