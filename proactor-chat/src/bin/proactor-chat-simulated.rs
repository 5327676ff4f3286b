//! The Proactor, simulated on synchronous I/O: one thread waits and copies, with epoll; workers
//! are handed completed reads, and only handle.
//!
//! ```text
//!      main thread                   kernel                  workers
//!  (1) epoll_ctl(ADD, 8) ─ once ──▶  interest list           asleep
//!  (2) epoll_wait ────────────────▶  wait                       │
//!      8 is readable ◀────────────   a line for 8               │
//!  (3) read(8) ───────────────────▶  copy                       │
//!      the completed read ──────── queue ───────────────────▶   │
//!  (2) epoll_wait ────────────────▶  wait                    (4) handle: the rules
//!  (5) an answer ◀────────────────   eventfd ◀──────────────    who is to be written to
//!  (6) write(7), write(9) … ──────▶  copy                       │
//! ```
//!
//! A line: (1) the main thread registers the client's socket, once and for both directions;
//! (2) it waits; (3) it reads, and puts the completed read, that is its bytes, into the queue;
//! (4) a worker wakes, takes it, applies the room's rules and answers whose lines wait now;
//! (5) the main thread, waiting, is told; (6) it writes all that waits for a client in one write,
//! and what a full socket does not take when epoll says that it does.
//!
//! What makes this a Proactor, when it is built on epoll? Not the call that waits, but what the
//! handler is told. A Reactor's handler hears "you can read", and reads. A Proactor's hears "this
//! has been read": it sees no socket, and calls neither read nor write. Whether the kernel has
//! completed the read, or a thread that stands in for it, it cannot tell. The proof: the workers
//! here, `proactor-chat/src/lib.rs`, are those of `proactor-chat-uring` too, where the kernel does.
//!
//! Run: `cargo run -p proactor-chat --bin proactor-chat-simulated`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Drawn from a trace: `docs/figures/proactor-chat-simulated.svg`.
//!
//! Use it when: handlers should know nothing of sockets (or are written for a Proactor already, on
//! another system), and this system completes nothing by itself, or may not.
//! Limits: one thread copies for all. A read needs a buffer of its own until it is handled, where
//! a Reactor's worker reads into one that it keeps.
//! Compare with: `proactor-chat-uring.rs` (there the kernel completes),
//! `reactor-chat/src/worker.rs` (there the workers copy).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::chat::{self, Effects, Id, Owed, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, announce, listen, read, run, stop_socket, write};
use log::{debug, info, trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use proactor_chat::{ANSWERS, LISTENER, STOP, Workers};

/// Ready sockets taken from the kernel at once. It goes round its list: those that do not fit
/// come first next time.
const EVENTS: usize = 256;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Until `accept` is tried again while descriptors are short.
const RETRY: Duration = Duration::from_millis(100);

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// It is in `ready`, or its last read is with a worker: it will be read without further news.
    /// No second read of it is handled beside the first, so its lines stay in order.
    reading: bool,
    /// It takes no more at the moment: wait until it is writable.
    full: bool,
    /// What the last write took, which the room has not been told.
    sent: usize,
}

struct Server {
    listener: TcpListener,
    epoll: Epoll,
    workers: Arc<Workers>,
    connections: BTreeMap<Id, Connection>,
    /// Who is to be read next.
    ready: VecDeque<Id>,
    effects: Effects,
    /// Somebody may still wait to be accepted: no news will say so again.
    incoming: bool,
    /// Out of descriptors.
    starved: bool,
    /// What is being read, and what is being written: nothing stays in them between two steps.
    buffer: Vec<u8>,
    lines: Vec<u8>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::idle(&idle)?);
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        Server::new(listener, &stop, Workers::start(room)?)?.serve()
    })
}

/// An entry of the interest list, of which every change is told once.
fn news(interest: EpollFlags, of: u64) -> EpollEvent {
    EpollEvent::new(interest | EpollFlags::EPOLLET, of)
}

impl Server {
    fn new(listener: TcpListener, stop: &UnixStream, workers: Arc<Workers>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, news(EpollFlags::EPOLLIN, STOP))?;
        epoll.add(&listener, news(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(workers.answered(), news(EpollFlags::EPOLLIN, ANSWERS))?;
        Ok(Self {
            listener,
            epoll,
            workers,
            connections: BTreeMap::new(),
            ready: VecDeque::new(),
            effects: Effects::default(),
            incoming: false,
            starved: false,
            buffer: vec![0; chat::READ],
            lines: Vec::new(),
        })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let timeout = self.timeout();
            trace!("wait: epoll_wait"); // (2), (5)
            let news = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => &events[..result?],
            };
            trace!("wait: epoll_wait = news of {}", news.len());

            for event in news {
                match event.data() {
                    STOP => return Ok(()),
                    LISTENER => self.incoming = true,
                    ANSWERS => {} // they are taken anyway
                    id => self.note(Id(id), event.events()),
                }
            }
            if self.incoming {
                self.accept_some()?;
            }
            for (id, bytes) in self.workers.answers(&mut self.effects) {
                // Until a read finds nothing, there may be more, of which there is no news.
                if !bytes.is_empty() {
                    self.ready.push_back(id);
                }
            }
            // First what has been read goes to everybody; then more is read.
            while let Some(id) = self.effects.write.pop() {
                self.write(id);
            }
            while let Some(id) = self.effects.close.pop() {
                self.close(id);
            }
            self.read_some();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.incoming && !self.starved {
            return EpollTimeout::ZERO;
        }
        let retry = self.starved.then(|| Instant::now() + RETRY);
        // A millisecond late: epoll counts in whole ones, and what it leaves out would be a loop.
        let time = self.workers.time_left(retry).map(|time| time + Duration::from_millis(1));
        time.map_or(EpollTimeout::NONE, |time| time.try_into().unwrap_or(EpollTimeout::MAX))
    }

    /// News of a client: it can be written to, or read from, or both, or it is lost.
    fn note(&mut self, id: Id, news: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.full && news != EpollFlags::EPOLLIN {
            connection.full = false;
            self.effects.write.push(id);
        }
        if !connection.reading && news != EpollFlags::EPOLLOUT {
            connection.reading = true;
            self.ready.push_back(id);
        }
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
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

    /// A client has come (1).
    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let id = self.workers.room(|room| room.join(Instant::now(), &mut self.effects));
        let added = self.epoll.add(&stream, news(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, id.0));
        let connection = Connection { stream, peer, reading: false, full: false, sent: 0 };
        self.connections.insert(id, connection);
        if let Err(error) = added {
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            warn!("{peer} refused: {error}");
            self.lose(id, error.into());
        }
        Ok(())
    }

    /// Writes all that waits for a client (6).
    fn write(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        loop {
            let sent = mem::take(&mut connection.sent);
            match self.workers.room(|room| room.owed(id, sent, &mut self.lines)) {
                Owed::Lines => {}
                Owed::Nothing => return,
                Owed::Close => return self.close(id),
            }
            match write(&connection.stream, &self.lines) {
                Ok(count) => connection.sent = count,
                Err(error) => return self.lose(id, error),
            }
            if connection.sent < self.lines.len() {
                connection.full = true;
                return;
            }
        }
    }

    /// Reads from those who are ready, once from each, and passes on what is complete (3).
    fn read_some(&mut self) {
        while self.workers.want_more() {
            let Some(id) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match read(&connection.stream, &mut self.buffer) {
                Ok(Some(count)) => {
                    connection.reading = count > 0;
                    self.workers.handle(id, Ok(self.buffer[..count].to_vec()));
                }
                Ok(None) => connection.reading = false,
                Err(error) => self.lose(id, error),
            }
        }
    }

    /// A client is lost (`ECONNRESET`, `EPIPE`, a time-out): a completion too.
    fn lose(&mut self, id: Id, error: io::Error) {
        debug!("{id}: {error}");
        self.close(id);
        self.workers.handle(id, Err(error));
    }

    fn close(&mut self, id: Id) {
        if let Some(connection) = self.connections.remove(&id) {
            info!("{} left", connection.peer);
            self.starved = false; // there is a descriptor again
        }
    }
}
