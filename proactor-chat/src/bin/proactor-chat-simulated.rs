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
//! What makes this a Proactor, when it is built on epoll? Not the call that waits: what the
//! handler is told. A Reactor's handler hears "you can read", and reads. A Proactor's hears "it has
//! been read, here it is": it sees no socket and calls neither read nor write. Who completed the
//! read, the kernel or a thread that stands in for it, it cannot tell. The proof: `work`
//! is the same here as on `io_uring`, where the kernel does it, to the letter.
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
//! Use it when: handling takes longer than copying and should know nothing of sockets; or the
//! handlers are written for a Proactor, and the system has none.
//! Limits: one thread copies for all. A completed read needs a buffer of its own until it is
//! handled, where a Reactor's worker reads into one that it keeps.
//! Compare with: `diff proactor-chat/src/bin/proactor-chat-simulated.rs
//! proactor-chat/src/bin/proactor-chat-uring.rs` (who completes), `reactor-chat` (who copies).

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{self, Effects, Id, Owed, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, listen, run, stop_socket};
use log::{info, trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Threads that handle. One lock guards the room: more of them would wait for one another.
const WORKERS: usize = 2;
/// Ready sockets taken from the kernel at once. It goes round its list: those that do not fit
/// come first next time.
const EVENTS: usize = 256;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Until `accept` is tried again while descriptors are short.
const RETRY: Duration = Duration::from_millis(100);

/// What an event is about that is not about a client: their ids count up from 0.
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const ANSWERS: u64 = u64::MAX - 2;

/// A read that is complete: the bytes, none at the end of the input, or what went wrong.
struct Completion {
    id: Id,
    read: io::Result<Vec<u8>>,
}

/// The room, and what the workers answer, until the main thread takes it.
struct Chat {
    room: Room,
    effects: Effects,
    /// Whose reads are handled, and their buffers.
    handled: Vec<(Id, Vec<u8>)>,
}

/// What main thread and workers share. Nobody holds both locks, and nobody makes a system call
/// that blocks with one of them held.
struct Shared {
    /// The request queue. A client is in it once at most: it is not read again before.
    completions: Mutex<VecDeque<Completion>>,
    some: Condvar,
    chat: Mutex<Chat>,
    /// Tells the main thread of the first answer since it has taken them.
    answered: EventFd,
}

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
    shared: Arc<Shared>,
    connections: HashMap<Id, Connection>,
    /// Who is to be read next.
    ready: VecDeque<Id>,
    /// Bytes that are read and not answered yet.
    under_way: usize,
    /// Somebody may still wait to be accepted: no news will say so again.
    incoming: bool,
    /// Out of descriptors.
    starved: bool,
    /// What is being read.
    buffer: Vec<u8>,
    /// What is being written.
    lines: Vec<u8>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let shared = Arc::new(Shared::new(Room::new(chat::idle(&idle)?))?);
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        for n in 1..=WORKERS {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("worker-{n}")).spawn(move || shared.work())?;
        }
        Server::new(listener, &stop, shared)?.serve()
    })
}

impl Shared {
    fn new(room: Room) -> io::Result<Self> {
        Ok(Self {
            completions: Mutex::default(),
            some: Condvar::new(),
            chat: Mutex::new(Chat { room, effects: Effects::default(), handled: Vec::new() }),
            answered: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// A worker: it handles what has been read (4).
    fn work(&self) {
        loop {
            let Completion { id, read } = self.next();
            trace!("handle: {id:?}: {:?}", read.as_ref().map(Vec::len));
            let (now, mut chat) = (Instant::now(), self.chat());
            let Chat { room, effects, handled } = &mut *chat;
            match &read {
                Ok(bytes) if bytes.is_empty() => room.end(id, now, effects),
                Ok(bytes) => room.input(id, bytes, now, effects),
                Err(_) => room.leave(id, effects),
            }
            handled.push((id, read.unwrap_or_default()));
            let first = handled.len() == 1;
            drop(chat);
            if first {
                // Its counter would have to overflow for this to fail.
                let _ = self.answered.write(1);
            }
        }
    }

    fn next(&self) -> Completion {
        let mut completions = lock(&self.completions);
        loop {
            match completions.pop_front() {
                Some(completion) => return completion,
                None => completions = self.some.wait(completions).expect(UNPOISONED),
            }
        }
    }

    fn complete(&self, id: Id, read: io::Result<Vec<u8>>) {
        lock(&self.completions).push_back(Completion { id, read });
        self.some.notify_one();
    }

    fn chat(&self) -> MutexGuard<'_, Chat> {
        lock(&self.chat)
    }
}

const UNPOISONED: &str = "no thread panics with a lock held";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(UNPOISONED)
}

/// An entry of the interest list, of which each change is told once.
fn news(interest: EpollFlags, of: u64) -> EpollEvent {
    EpollEvent::new(interest | EpollFlags::EPOLLET, of)
}

impl Server {
    fn new(listener: TcpListener, stop: &UnixStream, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, news(EpollFlags::EPOLLIN, STOP))?;
        epoll.add(&listener, news(EpollFlags::EPOLLIN, LISTENER))?;
        // Every write to it is news: nobody has to read it.
        epoll.add(&shared.answered, news(EpollFlags::EPOLLIN, ANSWERS))?;
        Ok(Self {
            listener,
            epoll,
            shared,
            connections: HashMap::new(),
            ready: VecDeque::new(),
            under_way: 0,
            incoming: false,
            starved: false,
            buffer: vec![0; chat::READ],
            lines: Vec::new(),
        })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut effects = Effects::default();
        loop {
            trace!("wait: epoll_wait"); // (2), (5)
            let news = match self.epoll.wait(&mut events, self.timeout()) {
                Err(Errno::EINTR) => continue,
                result => &events[..result?],
            };
            trace!("wait: epoll_wait = news of {}", news.len());
            for event in news {
                match event.data() {
                    STOP => return Ok(()),
                    LISTENER => self.incoming = true,
                    ANSWERS => {} // they are taken anyway
                    id => self.note(Id(id), event.events(), &mut effects),
                }
            }
            if self.incoming {
                self.accept_some(&mut effects)?;
            }
            self.take_answers(&mut effects);
            // Before more is read: what has been read reaches everybody's socket first.
            for id in effects.write.drain(..) {
                self.write(id);
            }
            for id in effects.close.drain(..) {
                self.close(id);
            }
            self.read_some();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.incoming && !self.starved {
            return EpollTimeout::ZERO;
        }
        // A millisecond late, as the rest of one that is cut off would make it a loop.
        let in_time = |expiry| Duration::from_millis(1) + (expiry - Instant::now());
        let expiry = self.shared.chat().room.next_expiry().map(in_time);
        let retry = self.starved.then_some(RETRY);
        let first = [expiry, retry].into_iter().flatten().min();
        first.map_or(EpollTimeout::NONE, |time| time.try_into().unwrap_or(EpollTimeout::MAX))
    }

    /// News of a client: it may be readable, it may be writable.
    fn note(&mut self, id: Id, news: EpollFlags, effects: &mut Effects) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.full && news.intersects(!EpollFlags::EPOLLIN) {
            connection.full = false;
            effects.write.push(id);
        }
        if !connection.reading && news.intersects(!EpollFlags::EPOLLOUT) {
            connection.reading = true;
            self.ready.push_back(id);
        }
    }

    fn take_answers(&mut self, effects: &mut Effects) {
        let (now, mut chat) = (Instant::now(), self.shared.chat());
        let Chat { room, effects: answers, handled } = &mut *chat;
        room.expire(now, answers);
        effects.write.append(&mut answers.write);
        effects.close.append(&mut answers.close);
        for (id, bytes) in handled.drain(..) {
            self.under_way -= bytes.len();
            // It has not been drained: there may be more.
            if !bytes.is_empty() {
                self.ready.push_back(id);
            }
        }
    }

    /// Writes all that waits for a client (6).
    fn write(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        loop {
            let sent = mem::take(&mut connection.sent);
            let owed = self.shared.chat().room.owed(id, sent, &mut self.lines);
            match owed {
                Owed::Lines => {}
                Owed::Nothing => return,
                Owed::Close => return self.close(id),
            }
            match (&connection.stream).write(&self.lines) {
                Ok(count) => connection.sent = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return self.lose(id, error),
            }
            let (fd, all) = (connection.stream.as_raw_fd(), self.lines.len());
            trace!("copy: write({fd}) = {} of {all}", connection.sent);
            if connection.sent < all {
                connection.full = true;
                return;
            }
        }
    }

    /// Reads from those who are ready, each once, and passes on what is complete (3).
    fn read_some(&mut self) {
        while self.under_way < chat::UNDER_WAY {
            let Some(id) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match (&connection.stream).read(&mut self.buffer) {
                Ok(count) => {
                    trace!("copy: read({}) = {count}", connection.stream.as_raw_fd());
                    connection.reading = count > 0;
                    self.under_way += count;
                    self.shared.complete(id, Ok(self.buffer[..count].to_vec()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.reading = false,
                Err(error) => self.lose(id, error),
            }
        }
    }

    fn accept_some(&mut self, effects: &mut Effects) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener)? {
                Accepted::Connection(stream, peer) => self.add(stream, peer, effects)?,
                Accepted::NobodyWaits => {
                    self.incoming = false;
                    break;
                }
                Accepted::OutOfDescriptors => {
                    self.starved = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// A client has come (1).
    fn add(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        effects: &mut Effects,
    ) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let id = self.shared.chat().room.join(Instant::now(), effects);
        match self.epoll.add(&stream, news(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, id.0)) {
            Ok(()) => {
                let connection = Connection { stream, peer, reading: false, full: false, sent: 0 };
                self.connections.insert(id, connection);
            }
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            Err(error) => {
                warn!("{peer} refused: {error}");
                self.shared.chat().room.leave(id, effects);
            }
        }
        Ok(())
    }

    /// A connection has failed (`ECONNRESET`, `EPIPE`, a time-out): that too completes its read.
    fn lose(&mut self, id: Id, error: io::Error) {
        self.close(id);
        self.shared.complete(id, Err(error));
    }

    fn close(&mut self, id: Id) {
        if let Some(connection) = self.connections.remove(&id) {
            info!("{} left", connection.peer);
            self.starved = false; // its descriptor can be a new connection's
        }
    }
}
