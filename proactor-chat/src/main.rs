//! The Proactor, as in the textbook: the system completes reads and writes, a signal's handler
//! passes that on, and a worker handles what is complete.
//!
//! ```text
//!      main               worker                    glibc, kernel
//!                    (1) aio_read(8, buffer) ────▶  ┐ wait: for a line
//!  (2) poll: for new clients, blocked               ┘ copy: into the buffer
//!      interrupted ◀──────────────── SIGUSR1 ── (3)   completion
//!  (4) its handler ────▶ wakes
//!  (2) poll          (5) aio_error, aio_return = 6
//!                        handle: the rules
//!                        aio_write(7), (9) … ────▶  ┐ wait: for room
//!                        aio_read(8), from (1)      ┘ copy
//!      interrupted ◀──────────────── SIGUSR1 ── (6)   completion
//!  (4) its handler ────▶ (7) aio_error: what next?
//! ```
//!
//! A line: (1) a client's socket and a buffer are the system's, to read, with the signal to send;
//! (2) the main thread waits for new clients, and for nothing else; (3) the read is complete, and
//! the signal interrupts that wait; (4) its handler passes it on; (5) the worker takes the line,
//! applies the room's rules, gives the system all that waits for a client in one write, and the
//! buffer of (1) again; (6) the write is complete; (7) what has come together meanwhile is the next
//! one, or there is none, or the client has quit, and this was all.
//!
//! Run: `cargo run -p proactor-chat`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Use it when: you want to see the pattern where it was drawn. On Linux "the system" is glibc, with
//! a thread that blocks for each operation: RATIO.
//! Limits: glibc only. A client is two descriptors and two threads; 1024 are served, and one beyond
//! that is refused: it is logged and closed.
//! Compare with: `proactor-chat-uring.rs` (the kernel completes), `proactor-chat-simulated.rs`
//! (a thread completes), `aio-echo/src/main.rs` (POSIX AIO, without a worker).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use aio_echo::start_helpers;
use common::chat::{self, Effects, Id, Owed, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, accepted, listen, run, stop_socket};
use log::{debug, info, trace, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use signal_hook::low_level::pipe;

/// Clients served. Each has a read in flight, and maybe a write: twice as many threads.
const CONNECTIONS: usize = 1024;
/// Connections accepted at once, and clients welcomed at once, so that a crowd at the door does not
/// keep the others waiting.
const ACCEPTS: usize = 64;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: u16 = 100;
/// How long a write may wait for room in a socket while the others wait for it: see `prompt`.
const PATIENCE: Duration = Duration::from_millis(10);
/// Says that operations have completed. An ordinary signal: see [`aio_echo::Idle::new`].
const COMPLETED: Signal = Signal::SIGUSR1;

/// Shared, so that it can be shut down while an operation has it.
type Socket = Arc<TcpStream>;
type Idle = aio_echo::Idle<Socket>;
type InFlight = aio_echo::InFlight<Socket>;

/// A client at the door, with the descriptor to read from and the one to write to: glibc does what
/// is asked of one descriptor one after another, and a write would wait for the read before it.
type Arrival = (TcpStream, TcpStream, SocketAddr);

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::idle(&idle)?);
        start_helpers(2 * CONNECTIONS as i32);
        let stop = stop_socket()?;
        let (hints, hint) = UnixStream::pair()?;
        hint.set_nonblocking(true)?; // full, it is readable: that is all it has to be
        pipe::register(COMPLETED as i32, hint.try_clone()?)?; // (4)
        let (door, arrivals) = mpsc::channel();
        let worker = Worker {
            hints,
            arrivals,
            room,
            effects: Effects::default(),
            connections: BTreeMap::new(),
            completed: VecDeque::new(),
            under_way: 0,
            prompt: 0,
        };
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        thread::Builder::new().name("worker".into()).spawn(|| worker.work())?;
        serve(&listener, &stop, &door, &hint)
    })
}

/// The main thread.
fn serve(
    listener: &TcpListener,
    stop: &UnixStream,
    door: &Sender<Arrival>,
    mut hint: &UnixStream,
) -> anyhow::Result<()> {
    let mut starved = false;
    loop {
        let interest = if starved { PollFlags::empty() } else { PollFlags::POLLIN };
        let timeout = if starved { PollTimeout::from(RETRY) } else { PollTimeout::NONE };
        let mut ready =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), interest)];
        trace!("wait: poll"); // (2)
        match poll(&mut ready, timeout) {
            Err(Errno::EINTR) => continue, // (3), (6): the handler has run
            result => result?,
        };
        let [stopped, incoming] = ready.map(|fd| fd.any().unwrap_or(true));
        trace!("wait: poll = stop {stopped}, incoming {incoming}");
        if stopped {
            return Ok(()); // and the process ends, whatever is in flight
        }
        starved = false;
        for _ in 0..ACCEPTS {
            // A client needs two descriptors: is there a second one?
            let answer = match stop.try_clone() {
                Ok(_spare) => Some(accept(listener)?),
                Err(error) => accepted(Err(error))?,
            };
            match answer {
                Some(Accepted::Connection(stream, peer)) => {
                    door.send((stream.try_clone()?, stream, peer))?;
                }
                Some(Accepted::OutOfDescriptors) => starved = true,
                Some(Accepted::NobodyWaits) | None => break,
            }
            if starved {
                break;
            }
        }
        let _ = hint.write(b"!");
    }
}

struct Connection {
    peer: SocketAddr,
    socket: Socket,
    reading: Option<InFlight>,
    /// One at a time, so that bytes stay in order.
    writing: Option<InFlight>,
    /// There is nothing to write.
    writer: Option<Idle>,
    /// The last write did not find enough room in time.
    slow: bool,
    closed: bool,
}

/// All that there is to handle, and who handles it. There is one, as there is one room: a second
/// would wait for the first. So there is no lock in here, and none to hold for too long.
struct Worker {
    /// Readable: something has completed, or somebody has arrived.
    hints: UnixStream,
    arrivals: Receiver<Arrival>,
    room: Room,
    effects: Effects,
    connections: BTreeMap<Id, Connection>,
    /// Reads that are complete and not handled yet.
    completed: VecDeque<(Id, Idle, io::Result<usize>)>,
    /// Bytes that have been handled since there was no prompt write.
    under_way: usize,
    /// Writes in flight that complete within [`PATIENCE`]: those to clients that are not slow.
    prompt: usize,
}

impl Worker {
    fn work(mut self) -> io::Result<()> {
        let mut crowd = false;
        loop {
            if !crowd {
                self.wait()?;
            }
            crowd = self.welcome();
            self.collect();
            while let Some((id, reader, result)) = self.next() {
                self.handle(id, reader, result);
            }
            self.room.expire(Instant::now(), &mut self.effects);
            self.follow_up();
        }
    }

    /// Waits for a hint, or until somebody's time is over.
    fn wait(&mut self) -> io::Result<()> {
        let in_time = |at| Duration::from_millis(1) + (at - Instant::now()); // 0 would be for ever
        self.hints.set_read_timeout(self.room.next_expiry().map(in_time))?;
        match self.hints.read(&mut [0; 1024]) {
            Err(error)
                if ![ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Welcomes some of those who have arrived; `true` if there may be more.
    fn welcome(&mut self) -> bool {
        for _ in 0..ACCEPTS {
            let Ok((reader, writer, peer)) = self.arrivals.try_recv() else { return false };
            if self.connections.len() == CONNECTIONS {
                warn!("{peer} refused: {CONNECTIONS} are here");
            } else if let Err(error) = self.add(reader, writer, peer) {
                warn!("{peer} refused: {error}");
            }
        }
        true
    }

    fn add(&mut self, reader: TcpStream, writer: TcpStream, peer: SocketAddr) -> io::Result<()> {
        writer.set_write_timeout(Some(PATIENCE))?;
        let socket = Arc::new(reader);
        let reader = Idle::new(Arc::clone(&socket), Vec::with_capacity(chat::READ), COMPLETED);
        let writer = Some(Idle::new(Arc::new(writer), Vec::new(), COMPLETED));
        let reading = Some(reader.read()?); // (1)
        let id = self.room.join(Instant::now(), &mut self.effects);
        let connection =
            Connection { peer, socket, reading, writing: None, writer, slow: false, closed: false };
        self.connections.insert(id, connection);
        Ok(())
    }

    /// Takes back all that has completed: the signal does not say what it is.
    fn collect(&mut self) {
        let mut written = Vec::new();
        self.connections.retain(|&id, connection| {
            if let Some((reader, result)) = done(&mut connection.reading) {
                trace!("copy: aio_read({}) = {result:?}", reader.socket().as_raw_fd());
                self.completed.push_back((id, reader, result));
            }
            if let Some((writer, result)) = done(&mut connection.writing) {
                trace!("copy: aio_write({}) = {result:?}", writer.socket().as_raw_fd());
                written.push((id, writer, result));
                self.prompt -= usize::from(!connection.slow);
            }
            !connection.closed || connection.reading.is_some() || connection.writing.is_some()
        });
        for (id, writer, result) in written {
            self.written(id, writer, result);
        }
    }

    /// The next completed read.
    fn next(&mut self) -> Option<(Id, Idle, io::Result<usize>)> {
        if self.under_way + chat::READ > chat::UNDER_WAY {
            // What has been handled goes to everybody before there is more of it.
            self.follow_up();
            if self.prompt > 0 {
                return None;
            }
            self.under_way = 0;
        }
        self.completed.pop_front()
    }

    /// A read is complete (5).
    fn handle(&mut self, id: Id, mut reader: Idle, result: io::Result<usize>) {
        let now = Instant::now();
        match result {
            Ok(0) => return self.room.end(id, now, &mut self.effects),
            Ok(count) => self.under_way += count,
            Err(error) => return self.lose(id, &error),
        }
        self.room.input(id, reader.buffer(), now, &mut self.effects);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        reader.buffer().clear();
        match reader.read() {
            Ok(reading) => connection.reading = Some(reading),
            Err(error) => self.lose(id, &error),
        }
    }

    /// A write is complete (7).
    fn written(&mut self, id: Id, mut writer: Idle, result: io::Result<usize>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let sent = match result {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return self.lose(id, &error),
            result => result.unwrap_or(0),
        };
        let slow = sent < writer.buffer().len();
        if mem::replace(&mut connection.slow, slow) != slow {
            // The next one may take its time, and is not waited for.
            let _ = connection.socket.set_write_timeout((!slow).then_some(PATIENCE));
        }
        self.write(id, writer, sent);
    }

    /// Writes all that waits for a client.
    fn write(&mut self, id: Id, mut writer: Idle, sent: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match self.room.owed(id, sent, writer.buffer()) {
            Owed::Lines => match writer.write(0) {
                Ok(writing) => {
                    self.prompt += usize::from(!connection.slow);
                    connection.writing = Some(writing);
                }
                Err(error) => self.lose(id, &error),
            },
            Owed::Nothing => {
                *writer.buffer() = Vec::new();
                connection.writer = Some(writer);
            }
            Owed::Close => self.close(id),
        }
    }

    /// Does what follows from what the room was told.
    fn follow_up(&mut self) {
        while let Some(id) = self.effects.write.pop() {
            let connection = self.connections.get_mut(&id);
            if let Some(writer) = connection.and_then(|connection| connection.writer.take()) {
                self.write(id, writer, 0);
            }
        }
        while let Some(id) = self.effects.close.pop() {
            self.close(id);
        }
    }

    fn lose(&mut self, id: Id, error: &io::Error) {
        debug!("{id}: {error}");
        self.room.leave(id, &mut self.effects);
        self.close(id);
    }

    /// Ends what is in flight; when it has come back, the connection is forgotten.
    fn close(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !mem::replace(&mut connection.closed, true) {
            info!("{} left", connection.peer);
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        if connection.reading.is_none() && connection.writing.is_none() {
            self.connections.remove(&id);
        }
    }
}

fn done(operation: &mut Option<InFlight>) -> Option<(Idle, io::Result<usize>)> {
    match operation.take()?.done() {
        Ok(done) => Some(done),
        Err(in_flight) => {
            *operation = Some(in_flight);
            None
        }
    }
}
