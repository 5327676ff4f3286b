//! epoll on all cores, with an acceptor: one thread accepts, and hands each connection to the event
//! loop that has the fewest. (Main and sub reactors, 主从 Reactor; one loop per thread.)
//!
//! ```text
//!      acceptor            kernel                                   loop 1, the one with the fewest
//!      accept ─────────▶   ┐ wait: until a client connects
//!        = 8    ◀───────   ┘
//!      mailbox of loop 1: 8
//!      write(eventfd) ─▶   the eventfd of loop 1 is readable   ──▶  epoll_ctl(ADD, 8)
//!                          ┐ wait, for each loop              ◀──   epoll_wait (1)
//!        asleep            ┘ a message for 8 has arrived       ──▶  8 is readable (2)
//!        asleep              copy                             ◀──   read(8), write(8) (3) (4)
//! ```
//!
//! How a message travels: within one loop, as in `epoll-echo`. (1) The loop waits. (2) The kernel
//! returns the ready sockets. (3) The loop reads once and (4) writes once. (5) While bytes are
//! pending, it watches the socket for writing and not for reading.
//!
//! The catch: each new connection passes from one thread to another, which costs a lock and a second
//! wake-up. And the loop with the fewest connections can be the busiest one: then the new connection
//! waits in its mailbox, although another loop may be idle.
//!
//! Run: `cargo run -p epoll-echo --bin epoll-echo-handoff`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/epoll-echo-handoff.svg`.
//!
//! Use it when: one core is not enough, and connections are long, so that an even spread matters.
//! Limits: as `epoll-echo`. One thread accepts, and limits the number of new connections per second.
//! Compare with: `diff epoll-echo/src/bin/epoll-echo-exclusive.rs
//! epoll-echo/src/bin/epoll-echo-handoff.rs` (no acceptor: the kernel chooses the loop).

use std::collections::BTreeMap;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, LOOPS, Progress, accept, announce, listen, lock,
    loop_count, run, stop_socket,
};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

type Results = mpsc::Sender<anyhow::Result<()>>;

/// What the acceptor and a loop share. No message needs it.
struct Mailbox {
    /// Connections for the loop. The limit on file descriptors limits their number.
    accepted: Mutex<Vec<(TcpStream, SocketAddr)>>,
    wake: EventFd,      // readable while connections wait in the mailbox
    count: AtomicUsize, // how many connections the loop has, with those in the mailbox
}

/// One loop. Its thread owns all but the mailbox, so nothing else needs a lock.
struct Server {
    mailbox: Arc<Mailbox>,
    /// Becomes readable when SIGINT or SIGTERM arrives. No loop reads it, so it wakes all of them.
    stop: UnixStream,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// The read buffer. All connections of the loop share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR, LOOPS], |[addr, loops]| {
        let count = loop_count(&loops)?;
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        // Each loop sends a result when it is ready, and one when it ends.
        let (sender, results) = mpsc::channel();
        let mut mailboxes = Vec::new();
        for number in 0..count {
            let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("eventfd")?;
            let mailbox = Arc::new(Mailbox { accepted: Mutex::default(), wake, count: 0.into() });
            mailboxes.push(Arc::clone(&mailbox));
            let stop = stop.try_clone()?;
            let sender = sender.clone();
            let work = move || sender.send(Server::run(mailbox, stop, &sender));
            let thread = thread::Builder::new().name(format!("loop {number}"));
            thread.spawn(work).context("cannot start a thread")?;
        }
        (0..count).try_for_each(|_| results.recv()?)?;
        let acceptor = move || sender.send(accept_all(&listener, &mailboxes));
        let thread = thread::Builder::new().name("acceptor".to_owned());
        thread.spawn(acceptor).context("cannot start a thread")?;
        announce(address);
        (0..count).try_for_each(|_| results.recv()?) // an error ends the process, with all loops
    })
}

/// Makes an entry of the interest list. `epoll_wait` returns its user data: the file descriptor.
fn event(interest: EpollFlags, socket: &impl AsFd) -> EpollEvent {
    EpollEvent::new(interest, socket.as_fd().as_raw_fd() as u64)
}

/// Runs in the acceptor's thread. It waits for the listener only, so it may block.
fn accept_all(listener: &TcpListener, mailboxes: &[Arc<Mailbox>]) -> anyhow::Result<()> {
    loop {
        trace!("wait: accept");
        if let Accepted::Connection(stream, peer) = accept(listener) {
            let fewest = mailboxes.iter().min_by_key(|it| it.count.load(Ordering::Relaxed));
            fewest.context("there is no loop")?.put(stream, peer)?;
        } else {
            thread::sleep(ACCEPT_RETRY); // Pitfalls: accept-spins, spare-descriptor
        }
    }
}

impl Mailbox {
    /// Does not wait for the loop, which may be busy. Pitfall: acceptor-waits-for-loop
    fn put(&self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        self.count.fetch_add(1, Ordering::Relaxed);
        lock(&self.accepted).push((stream, peer));
        self.wake.write(1).context("write(eventfd)")?; // after the connection is in the mailbox
        Ok(())
    }
}

impl Server {
    /// Runs in the loop's thread, so that the loops do not allocate memory from the same arena.
    fn run(mailbox: Arc<Mailbox>, stop: UnixStream, results: &Results) -> anyhow::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let interest = EpollFlags::EPOLLIN;
        epoll.add(&stop, event(interest, &stop)).context("epoll_ctl(ADD, stop)")?;
        epoll.add(&mailbox.wake, event(interest, &mailbox.wake)).context("epoll_ctl(ADD, wake)")?;
        let connections = BTreeMap::new();
        let buffer = vec![0; BUFFER_SIZE];
        results.send(Ok(()))?;
        Self { mailbox, stop, epoll, connections, buffer }.serve()
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            trace!("wait: epoll_wait"); // (1)
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => &events[..count],
                // A signal handler ran, or SIGSTOP and SIGCONT arrived. Pitfall: eintr-fatal
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} ready", ready.len()); // (2)
            let mut mailbox_ready = false;
            for event in ready {
                let fd = event.data() as RawFd;
                if fd == self.stop.as_raw_fd() {
                    return Ok(()); // dropping the server closes all sockets, and the process ends
                } else if fd == self.mailbox.wake.as_raw_fd() {
                    mailbox_ready = true;
                } else {
                    // Readable, writable, error or hang-up: the next read or write shows which.
                    self.on_ready(fd)?;
                }
            }
            if mailbox_ready {
                self.take_all()?; // last, because existing clients come first
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
            self.mailbox.count.fetch_sub(1, Ordering::Relaxed);
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

    fn take_all(&mut self) -> anyhow::Result<()> {
        // First, because the acceptor may put another connection into the mailbox at any time.
        self.mailbox.wake.read().context("read(eventfd)")?; // makes it unreadable
        let accepted = mem::take(&mut *lock(&self.mailbox.accepted));
        accepted.into_iter().try_for_each(|(stream, peer)| self.add(stream, peer))
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        let fd = stream.as_raw_fd();
        if let Err(error) = self.epoll.add(&stream, event(EpollFlags::EPOLLIN, &stream)) {
            // ENOSPC (the user's limit, fs.epoll.max_user_watches) or ENOMEM.
            warn!("{peer} refused: epoll_ctl(ADD): {error}");
            self.mailbox.count.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        self.connections.insert(fd, Connection::new(stream, peer)?);
        Ok(())
    }
}
