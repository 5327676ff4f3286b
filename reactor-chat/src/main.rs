//! The Reactor: the main thread waits for events, and does nothing else; workers do what the
//! events ask for: accept, read, handle, write.
//!
//! ```text
//!      main               workers                       kernel
//!  (1) register the listener ───────────────────────▶   interest list
//!  (2) wait ────────────────────────────────────────▶ ┐ wait: for sockets, signals, timers
//!  (3) queue ◀──────────────────────────────────────  ┘ 8 is readable
//!        └──────────▶ (4) read(8) ──────────────────▶   copy
//!                         handle the line
//!                         register 9, to write ─────▶   interest list
//!  (5) wait ────────────────────────────────────────▶ ┐ wait
//!  (6) queue ◀──────────────────────────────────────  ┘ 9 is writable
//!        └──────────▶ (7) write(9) ─────────────────▶   copy
//! ```
//!
//! A line: (1) what is to be read from is registered; (2) the main thread waits for everything at
//! once, and (3) puts what is ready into the request queue (`queue.rs`); (4) a sleeping worker wakes,
//! reads, handles the line, and registers its receivers for writing; (5) the main thread waits, and
//! (6) queues those that are writable; (7) a worker writes to each, in one call, all that has come
//! together for it meanwhile: under load that is many lines. `connection.rs` keeps two workers
//! out of one connection.
//!
//! Run: `cargo run -p reactor-chat`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! guest1: hello
//! ```
//!
//! Drawn from a trace: `docs/figures/reactor-chat.svg`.
//!
//! Use it when: handling takes long enough to want several cores, or may block.
//! Limits: an event crosses from thread to thread, and interest is one-shot, a system call each
//! time: where handling is as short as it is here, one thread that does everything is cheaper.
//! Compare with: `diff reactor-chat/src/main.rs proactor-chat/src/bin/proactor-chat-simulated.rs`
//! (there the main thread copies, and workers only handle).

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{self, Effects, Id, Owed, READ, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, listen, lock, read, run, stop_socket, write};
use log::{debug, error, trace, warn};
use polling::{Event, Events, Poller};

mod connection;
mod queue;
use connection::Connection;
use queue::{Queue, Request};

/// Two may copy while a third handles: of those there is one at a time, as the room has one lock.
const WORKERS: usize = 3;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// How long until `accept` is tried again while descriptors are short.
const RETRY: Duration = Duration::from_millis(100);

/// Keys of the events that are about no client. A client's key is its [`Id`], which is never used
/// again: an event that comes late finds nobody. (`polling` keeps `usize::MAX` for itself.)
const LISTENER: usize = usize::MAX - 1;
const STOP: usize = usize::MAX - 2;
const TIMER: usize = usize::MAX - 3;

/// What the threads share, for as long as the process runs.
///
/// No thread holds two locks at once (these, the queue's and a connection's are all there are), so
/// there is no order in which they could deadlock. None is held across a system call that can block.
/// Pitfall: lock-while-broadcasting.
struct Server {
    poller: &'static Poller,
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    queue: Queue,
    room: Mutex<Room>,
    connections: Mutex<BTreeMap<Id, Arc<Connection>>>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Mutex::new(Room::new(chat::idle(&idle)?));
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let poller: &'static Poller = Box::leak(Box::new(Poller::new()?));
        let (queue, connections) = (Queue::new(WORKERS, poller), Mutex::default());
        let server = Server { poller, listener, stop, queue, room, connections };
        let server: &'static Server = Box::leak(Box::new(server));
        for n in 1..=WORKERS {
            let worker =
                Worker { server, input: [0; READ], output: vec![], effects: <_>::default() };
            thread::Builder::new().name(format!("worker-{n}")).spawn(move || worker.work())?;
        }
        server.serve()
    })
}

impl Server {
    /// The main thread.
    fn serve(&'static self) -> anyhow::Result<()> {
        // SAFETY: what is added must be deleted before it is dropped; `'static` is never dropped.
        unsafe { self.poller.add(&self.stop, Event::readable(STOP)) }?;
        // SAFETY: likewise.
        unsafe { self.poller.add(&self.listener, Event::readable(LISTENER)) }?; // (1)
        let mut events = Events::new();
        loop {
            let timeout = self.queue.timeout();
            trace!("wait: Poller::wait"); // (2), (5)
            events.clear();
            self.poller.wait(&mut events, timeout)?;
            trace!("wait: Poller::wait = {} ready", events.len());
            if events.iter().any(|event| event.key == STOP) {
                return Ok(()); // and the process ends, whatever the workers are at
            }
            self.queue.put(&events); // (3), (6)
        }
    }

    fn register_listener(&self) -> io::Result<()> {
        self.poller.modify(&self.listener, Event::readable(LISTENER))
    }
}

/// A worker, with room for what it reads, what it writes, and what follows: nothing stays there.
struct Worker {
    server: &'static Server,
    input: [u8; READ],
    output: Vec<u8>,
    effects: Effects,
}

impl Worker {
    fn work(mut self) {
        loop {
            let done = match self.server.queue.take() {
                Request::Read(LISTENER) => self.accept_some(),
                Request::Read(TIMER) => self.expire(),
                Request::Read(key) => self.go_on(key, Self::read),
                Request::Write(key) => self.go_on(key, Self::write),
            };
            // What goes wrong with a connection ends there: this is the listener's or the poller's.
            if let Err(error) = done {
                error!("{error}");
                process::exit(1);
            }
        }
    }

    fn accept_some(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match accept(&self.server.listener)? {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
                Accepted::NobodyWaits => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::OutOfDescriptors => {
                    // It would be ready all the time: not before the timer, or somebody leaves.
                    self.server.queue.set_alarm(Instant::now() + RETRY);
                    return Ok(());
                }
            }
        }
        self.server.register_listener()
    }

    /// A client has come: it is welcomed, and registered with that (1).
    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let id = lock(&self.server.room).join(Instant::now(), &mut self.effects);
        match Connection::new(stream, peer, id, self.server.poller) {
            Ok(connection) => drop(lock(&self.server.connections).insert(id, connection)),
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            Err(error) => {
                warn!("{peer} refused: {error}");
                lock(&self.server.room).leave(id, &mut self.effects);
            }
        }
        self.follow_up()
    }

    fn expire(&mut self) -> io::Result<()> {
        lock(&self.server.room).expire(Instant::now(), &mut self.effects);
        self.follow_up()?;
        self.server.register_listener()
    }

    /// One step of one client: a read or a write.
    fn go_on(
        &mut self,
        key: usize,
        copy: fn(&mut Self, &Connection) -> io::Result<()>,
    ) -> io::Result<()> {
        let id = Id(key as u64);
        let connection = lock(&self.server.connections).get(&id).cloned();
        let Some(connection) = connection.filter(|it| it.hold()) else { return Ok(()) };
        // A reset (`ECONNRESET`, `EPIPE`), a time-out, a lost route: of this client only.
        if let Err(error) = copy(self, &connection) {
            debug!("{}: {error}", connection.peer);
            lock(&self.server.room).leave(id, &mut self.effects);
            self.effects.close.push(id);
        }
        self.follow_up()?;
        connection.register(|interest| interest.held = false)
    }

    /// Reads once, and handles what came (4).
    fn read(&mut self, connection: &Connection) -> io::Result<()> {
        let count = read(&connection.stream, &mut self.input)?;
        self.server.queue.give_back(READ - count.unwrap_or(0));
        let Some(count) = count else { return Ok(()) };
        let (id, now) = (connection.id, Instant::now());
        if count > 0 {
            let bytes = &self.input[..count];
            lock(&self.server.room).input(id, bytes, now, &mut self.effects);
            return Ok(());
        }
        connection.register(|interest| interest.read = false)?;
        lock(&self.server.room).end(id, now, &mut self.effects);
        // Where the client has not only ended but is gone, this is what tells.
        self.write(connection)
    }

    /// Writes once, all that waits for the client (7).
    fn write(&mut self, connection: &Connection) -> io::Result<()> {
        connection.register(|interest| interest.write = false)?;
        let mut owed = lock(&self.server.room).owed(connection.id, 0, &mut self.output);
        if owed == Owed::Lines {
            let sent = write(&connection.stream, &self.output)?;
            owed = lock(&self.server.room).owed(connection.id, sent, &mut self.output);
        }
        match owed {
            Owed::Lines => connection.register(|interest| interest.write = true)?,
            Owed::Nothing => {}
            Owed::Close => self.effects.close.push(connection.id),
        }
        Ok(())
    }

    /// What follows from what the room was told: an alarm, receivers to register (4), a farewell.
    fn follow_up(&mut self) -> io::Result<()> {
        let expiry = lock(&self.server.room).next_expiry();
        if let Some(expiry) = expiry {
            self.server.queue.set_alarm(expiry);
        }
        let Effects { write, close } = &mut self.effects;
        let mut connections = lock(&self.server.connections);
        let write: Vec<_> =
            write.drain(..).filter_map(|id| connections.get(&id).cloned()).collect();
        let close: Vec<_> = close.drain(..).filter_map(|id| connections.remove(&id)).collect();
        drop(connections);
        for connection in write {
            connection.register(|interest| interest.write = true)?;
        }
        if !close.is_empty() {
            drop(close);
            self.server.register_listener()?; // there are descriptors again
        }
        Ok(())
    }
}
