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
//! once, and (3) puts what is ready into the request queue; (4) a sleeping worker wakes, reads,
//! handles the line, and registers its receivers for writing; (5) the main thread, which waits
//! again, (6) queues those that are writable; (7) a worker writes to each, in one call, all that has
//! come together for it meanwhile: under load that is many lines.
//!
//! Run: `cargo run -p reactor-chat`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! guest1: hello
//! ```
//!
//! Use it when: handling takes long enough to want several cores, or may block.
//! Limits: an event crosses from thread to thread, and interest is one-shot, a system call each
//! time: where handling is as short as it is here, one thread that does everything is cheaper.
//! Compare with: `diff reactor-chat/src/main.rs proactor-chat/src/bin/proactor-chat-simulated.rs`
//! (there the main thread copies, and workers only handle).

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{self, Effects, Id, Owed, READ, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, listen, read, run, stop_socket, write};
use log::{debug, error, info, trace, warn};
use polling::{Event, Events, Poller};

mod queue;
use queue::Queue;

/// Two copy while a third handles, which one at a time can: the rules are behind one lock.
const WORKERS: usize = 3;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// How long until `accept` is tried again while descriptors are short.
const RETRY: Duration = Duration::from_millis(100);

/// Events that are no client's. A client's have its [`Id`] for a key, which never comes again: an
/// event that comes too late finds nobody.
const LISTENER: usize = usize::MAX - 1; // `polling` keeps MAX for itself
const STOP: usize = usize::MAX - 2;
const TIMER: usize = usize::MAX - 3;

const NO_PANIC: &str = "no thread panics";

/// What the threads share.
///
/// No thread ever holds two of these locks, the queue's and a connection's included, so there is no
/// order of them to deadlock in; and none is held across a system call that can block.
struct Server {
    poller: &'static Poller,
    listener: TcpListener,
    queue: Queue,
    room: Mutex<Room>,
    connections: Mutex<HashMap<Id, Arc<Connection>>>,
}

/// A client's connection: open, and in the poller's interest list, until the last worker lets go.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    id: Id,
    interest: Mutex<Interest>,
    poller: &'static Poller,
}

/// What a connection waits for.
///
/// To register it is to ask for one event. That alone does not keep two workers out of a connection:
/// whoever has a line for it registers it, while an earlier event may be under way. So of
/// a connection that a worker has in hand nothing is registered, only noted here, and the worker
/// registers it as it lets go. Who finds it held can drop his event: what it was for is
/// reported again.
struct Interest {
    held: bool,
    read: bool,
    write: bool,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Mutex::new(Room::new(chat::idle(&idle)?));
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        // For as long as the process lives, as the workers do.
        let poller: &'static Poller = Box::leak(Box::new(Poller::new()?));
        let (queue, connections) = (Queue::new(WORKERS, poller), Mutex::default());
        let server = Box::leak(Box::new(Server { poller, listener, queue, room, connections }));
        for number in 1..=WORKERS {
            let name = format!("worker-{number}");
            thread::Builder::new().name(name).spawn(|| Worker::new(server).work())?;
        }
        server.serve(Box::leak(Box::new(stop)))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(NO_PANIC)
}

impl Server {
    /// The main thread.
    fn serve(&self, stop: &'static UnixStream) -> anyhow::Result<()> {
        // SAFETY: it lives as long as the process.
        unsafe { self.poller.add(stop, Event::readable(STOP))? };
        // SAFETY: so does the server.
        unsafe { self.poller.add(&self.listener, Event::readable(LISTENER))? }; // (1)
        let mut events = Events::new();
        loop {
            let alarm = self.queue.alarm();
            let timeout = alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()));
            trace!("wait: Poller::wait"); // (2, 5)
            events.clear();
            self.poller.wait(&mut events, timeout)?;
            trace!("wait: Poller::wait = {} ready", events.len());
            if events.iter().any(|event| event.key == STOP) {
                return Ok(()); // and the process ends, whatever the workers are at
            }
            self.queue.put(&events); // (3, 6)
        }
    }
}

/// A worker, and where its copies and the room's answers go: nothing stays in it.
struct Worker {
    server: &'static Server,
    input: [u8; READ],
    output: Vec<u8>,
    effects: Effects,
}

impl Worker {
    fn new(server: &'static Server) -> Self {
        Self { server, input: [0; READ], output: Vec::new(), effects: Effects::default() }
    }

    fn work(mut self) {
        loop {
            let request = self.server.queue.take();
            let done = match request.key {
                LISTENER => self.accept_some(),
                TIMER => self.look_at_the_time(),
                _ => self.go_on(request),
            };
            if let Err(error) = done {
                error!("{error}"); // of the listener's or the poller's
                process::exit(1);
            }
        }
    }

    fn accept_some(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match accept(&self.server.listener)? {
                Accepted::Connection(stream, peer) => self.join(stream, peer)?,
                Accepted::NobodyWaits => break,
                Accepted::OutOfDescriptors => {
                    // Not registered again before somebody leaves, or the timer event.
                    self.server.queue.set_alarm(Instant::now() + RETRY);
                    return Ok(());
                }
            }
        }
        self.server.register_listener()
    }

    fn join(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let id = lock(&self.server.room).join(Instant::now(), &mut self.effects);
        match Connection::new(stream, peer, id, self.server.poller) {
            Ok(connection) => {
                lock(&self.server.connections).insert(id, Arc::new(connection));
            }
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            Err(error) => {
                warn!("{peer} refused: {error}");
                lock(&self.server.room).leave(id, &mut self.effects);
            }
        }
        self.act()
    }

    fn look_at_the_time(&mut self) -> io::Result<()> {
        lock(&self.server.room).expire(Instant::now(), &mut self.effects);
        self.act()?;
        self.server.register_listener()
    }

    fn go_on(&mut self, request: Event) -> io::Result<()> {
        let id = Id(request.key as u64);
        let connection = lock(&self.server.connections).get(&id).cloned();
        let Some(connection) = connection else { return Ok(()) };
        let Some(write) = connection.hold(request.writable) else { return Ok(()) };
        let copied = if write { self.write(&connection) } else { self.read(&connection) };
        if let Err(error) = copied {
            debug!("{}: {error}", connection.peer);
            lock(&self.server.room).leave(id, &mut self.effects);
            self.effects.close.push(id);
        }
        self.act()?;
        connection.register(|interest| interest.held = false)
    }

    /// Reads, and handles what came (4).
    fn read(&mut self, connection: &Connection) -> io::Result<()> {
        let count = read(&connection.stream, &mut self.input)?;
        self.server.queue.give_back(READ - count.unwrap_or(0));
        let (id, now) = (connection.id, Instant::now());
        match count {
            None => {}
            Some(0) => {
                lock(&connection.interest).read = false;
                lock(&self.server.room).end(id, now, &mut self.effects);
            }
            Some(count) => {
                lock(&self.server.room).input(id, &self.input[..count], now, &mut self.effects);
            }
        }
        Ok(())
    }

    /// Writes once all that waits for the client (7).
    fn write(&mut self, connection: &Connection) -> io::Result<()> {
        let mut owed = lock(&self.server.room).owed(connection.id, 0, &mut self.output);
        if owed == Owed::Lines {
            let sent = write(&connection.stream, &self.output)?;
            owed = lock(&self.server.room).owed(connection.id, sent, &mut self.output);
        }
        match owed {
            Owed::Lines => lock(&connection.interest).write = true,
            Owed::Nothing => {}
            Owed::Close => self.effects.close.push(connection.id),
        }
        Ok(())
    }

    /// Does what the room has asked for.
    fn act(&mut self) -> io::Result<()> {
        let expiry = lock(&self.server.room).next_expiry();
        if let Some(expiry) = expiry {
            self.server.queue.set_alarm(expiry);
        }
        let Effects { write, close } = &mut self.effects;
        if write.is_empty() && close.is_empty() {
            return Ok(());
        }
        let mut connections = lock(&self.server.connections);
        let called: Vec<_> =
            write.drain(..).filter_map(|id| connections.get(&id).cloned()).collect();
        let closed: Vec<_> = close.drain(..).filter_map(|id| connections.remove(&id)).collect();
        drop(connections);
        for connection in called {
            connection.register(|interest| interest.write = true)?; // (4)
        }
        if closed.is_empty() {
            return Ok(());
        }
        drop(closed);
        self.server.register_listener()
    }
}

impl Server {
    fn register_listener(&self) -> io::Result<()> {
        self.poller.modify(&self.listener, Event::readable(LISTENER))
    }
}

impl Connection {
    fn new(
        stream: TcpStream,
        peer: SocketAddr,
        id: Id,
        poller: &'static Poller,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // SAFETY: it is deleted in `drop`, before the stream is closed.
        unsafe { poller.add(&stream, Event::none(id.0 as usize))? };
        let interest = Mutex::new(Interest { held: false, read: true, write: false });
        Ok(Self { stream, peer, id, interest, poller })
    }

    /// Takes it in hand, to write or else to read; `None` where another worker has it.
    fn hold(&self, writable: bool) -> Option<bool> {
        let mut interest = lock(&self.interest);
        if interest.held {
            return None;
        }
        interest.held = true;
        let write = interest.write && writable;
        interest.write &= !write;
        Some(write)
    }

    /// The only place where it is registered; under the lock, so that the last word counts.
    fn register(&self, change: impl FnOnce(&mut Interest)) -> io::Result<()> {
        let mut interest = lock(&self.interest);
        change(&mut interest);
        if interest.held {
            return Ok(());
        }
        let event = Event::new(self.id.0 as usize, interest.read, interest.write);
        self.poller.modify(&self.stream, event)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.poller.delete(&self.stream);
        info!("{} left", self.peer);
    }
}
