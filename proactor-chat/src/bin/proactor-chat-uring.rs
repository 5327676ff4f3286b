//! The Proactor, as the kernel offers it today: `io_uring` completes what the main thread begins,
//! and workers handle what is complete.
//!
//! ```text
//!      main thread                   kernel                  workers
//!  (1) recv(8, buffer) ─ queue ──▶   ┐                       asleep
//!  (2) io_uring_enter ───────────▶   │ wait: a line for 8       │
//!        blocked                     ┘                          │
//!        blocked                     ] copy: into the buffer    │
//!  (3) recv(8) = 6 ◀──────────────   completion                 │
//!      the completed read ──────── queue ───────────────────▶   │
//!  (2) io_uring_enter ───────────▶   wait                    (4) handle: the rules
//!  (5) an answer ◀────────────────   eventfd ◀──────────────    who is to be written to
//!  (6) send(7), send(9) … queue ─▶   copy, when there is room   │
//! ```
//!
//! A line: (1) the main thread gives the kernel a client's socket and a buffer to receive into;
//! (2) one call hands over all that is queued, for whichever clients, and waits; (3) the line
//! is in the buffer, and the main thread passes it on; (4) a worker wakes, applies the room's rules
//! and answers whose lines wait now; (5) the main thread is told; (6) it gives the kernel all that
//! waits for a client in one send, and the buffer of (1) again.
//!
//! Run: `cargo run -p proactor-chat --bin proactor-chat-uring`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Drawn from a trace: `docs/figures/proactor-chat-uring.svg`.
//!
//! Use it when: there is much to write to many, on a kernel that lets you. The sends to many
//! clients are handed over in one call, where `proactor-chat-simulated` makes one for each: a tenth
//! of the calls (docs/benchmarks: chat of 100); the copying is the same.
//! Limits: Linux 6.1 or newer, and refused in many containers. Completion needs its buffer before
//! the line is there: an idle client holds 4 KiB, and what is in flight outlives its connection.
//! Compare with: `proactor-chat-simulated.rs` (who completes; the workers are the same, in
//! `proactor-chat/src/lib.rs`), `uring-echo/src/main.rs` (without workers).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::chat::{self, Effects, Id, Owed, Room};
use common::{Accepted, CHAT_ADDR, IDLE, announce, listen, run, stop_socket};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use log::{debug, info, trace};
use proactor_chat::{ANSWERS, LISTENER, Read, STOP, Workers};
use socket2::SockRef;

/// Operations handed over in one call.
const OPERATIONS: u32 = 256;
/// Clients welcomed at once, so that a crowd at the door does not keep the others waiting.
const WELCOMES: usize = 64;
/// Until `accept` is tried again while descriptors are short.
const RETRY: Duration = Duration::from_millis(100);
/// The time is over; a signal; no room in the kernel just now: what is done makes some.
const AGAIN: [Option<i32>; 4] =
    [Some(libc::ETIME), Some(libc::EINTR), Some(libc::EAGAIN), Some(libc::EBUSY)];

/// Together with a client's id: its send. The id alone is its receive.
const SEND: u64 = 1 << 63;

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// What is being received into, while it is; it goes round by way of a worker. There is one,
    /// so a second read is not begun beside the first, and the client's lines stay in order.
    receiving: Vec<u8>,
    /// What is being sent.
    sending: Vec<u8>,
    /// Operations that the kernel has: until they complete, the buffers and the descriptor are
    /// its own.
    in_flight: usize,
    closed: bool,
}

struct Server {
    listener: TcpListener,
    ring: IoUring,
    /// Operations that are done, taken back from the kernel.
    done: VecDeque<cqueue::Entry>,
    workers: Arc<Workers>,
    /// Who has been accepted, and is not in the room yet.
    arrived: VecDeque<(TcpStream, SocketAddr)>,
    connections: BTreeMap<Id, Connection>,
    /// What is complete and not with a worker yet.
    completed: VecDeque<(Id, Read)>,
    effects: Effects,
    /// Out of descriptors: when to accept again.
    retry: Option<Instant>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::idle(&idle)?);
        // Results are then kept until we wait for them: each would interrupt us otherwise.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(OPERATIONS)
            .context("the kernel refuses io_uring (older than 6.1, a sysctl, a container)")?;
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        let server = Server {
            listener,
            ring,
            done: VecDeque::new(),
            workers: Workers::start(room)?,
            arrived: VecDeque::new(),
            connections: BTreeMap::new(),
            completed: VecDeque::new(),
            effects: Effects::default(),
            retry: None,
        };
        // Never freed: at the end there are buffers that the kernel still has.
        Box::leak(Box::new(server)).serve(&stop)
    })
}

impl Server {
    fn serve(&mut self, stop: &UnixStream) -> anyhow::Result<()> {
        let readable = libc::POLLIN as u32;
        self.submit(STOP, opcode::PollAdd::new(Fd(stop.as_raw_fd()), readable).build())?;
        self.watch_answers()?;
        self.submit_accept()?;
        loop {
            trace!("wait: io_uring_enter"); // (2), (5)
            self.enter(usize::from(self.done.is_empty() && self.arrived.is_empty()))?;
            trace!("wait: io_uring_enter = {} done", self.done.len());

            while let Some(entry) = self.done.pop_front() {
                let more = cqueue::more(entry.flags());
                // As the system call would have returned it, or minus its `errno`.
                let result = usize::try_from(entry.result())
                    .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
                match entry.user_data() {
                    STOP => {
                        // The kernel clears up after us in its own time, and till then our accept
                        // holds the address: the next server would find it in use.
                        return Ok(SockRef::from(&self.listener).shutdown(Shutdown::Both)?);
                    }
                    LISTENER => self.on_accepted(result, more)?,
                    ANSWERS if more => {} // they are taken anyway
                    ANSWERS => self.watch_answers()?,
                    name => self.go_on(name, result)?,
                }
            }
            for _ in 0..WELCOMES {
                let Some((stream, peer)) = self.arrived.pop_front() else { break };
                self.add(stream, peer)?;
            }
            let handled = self.workers.answers(&mut self.effects);
            // First what has been read goes to everybody; then more is read.
            while let Some(id) = self.effects.write.pop() {
                self.send(id, 0)?;
            }
            while let Some(id) = self.effects.close.pop() {
                self.close(id);
            }
            for (id, buffer) in handled {
                // After the end of the input nothing comes.
                if !buffer.is_empty() {
                    self.receive(id, buffer)?;
                }
            }
            while self.workers.want_more() {
                let Some((id, read)) = self.completed.pop_front() else { break };
                self.workers.handle(id, read);
            }
            if self.retry.is_some_and(|retry| retry <= Instant::now()) {
                self.submit_accept()?;
            }
        }
    }

    /// Queues an operation; `name` rides along and says which it was when it is done.
    fn submit(&mut self, name: u64, operation: squeue::Entry) -> io::Result<()> {
        let operation = operation.user_data(name);
        // SAFETY: its buffer, if any, is a connection's, which nobody touches until it is done.
        while unsafe { self.ring.submission().push(&operation) }.is_err() {
            self.enter(0)?; // The queue is full.
        }
        Ok(())
    }

    /// Hands over what is queued, waits until as many operations as wanted are done or it is time
    /// for something else, and takes back those that are done.
    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        let time = self.workers.time_left(self.retry).map(Timespec::from);
        let args = SubmitArgs::new();
        let args = time.as_ref().map_or(args, |time| args.timespec(time));
        match self.ring.submitter().submit_with_args(wanted, &args) {
            Err(error) if !AGAIN.contains(&error.raw_os_error()) => return Err(error),
            _ => self.done.extend(self.ring.completion()),
        }
        Ok(())
    }

    fn watch_answers(&mut self) -> io::Result<()> {
        let fd = Fd(self.workers.answered().as_raw_fd());
        // Completes with every write to it: nobody has to read it.
        self.submit(ANSWERS, opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build())
    }

    /// Begins to read from a client (1).
    fn receive(&mut self, id: Id, mut buffer: Vec<u8>) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.closed {
            return Ok(());
        }
        buffer.clear();
        let fd = Fd(connection.stream.as_raw_fd());
        let operation = opcode::Recv::new(fd, buffer.as_mut_ptr(), chat::READ as u32).build();
        connection.receiving = buffer;
        connection.in_flight += 1;
        self.submit(id.0, operation)
    }

    /// An operation of a client's is done.
    fn go_on(&mut self, name: u64, result: io::Result<usize>) -> io::Result<()> {
        let id = Id(name & !SEND);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.in_flight -= 1;
        let (fd, sends) = (connection.stream.as_raw_fd(), name & SEND != 0);
        match result {
            _ if connection.closed => self.close(id),
            // A thread of the kernel's was waiting for this, and was stopped (SIGSTOP): once more.
            Err(error) if error.kind() == ErrorKind::Interrupted && sends => self.send(id, 0)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                let buffer = mem::take(&mut connection.receiving);
                self.receive(id, buffer)?;
            }
            Err(error) => self.lose(id, error),
            Ok(count) if sends => {
                trace!("copy: send({fd}) = {count} of {}", connection.sending.len());
                self.send(id, count)?;
            }
            Ok(count) => {
                trace!("copy: recv({fd}) = {count}"); // (3)
                let mut bytes = mem::take(&mut connection.receiving);
                // SAFETY: the kernel has filled as many.
                unsafe { bytes.set_len(count) };
                self.completed.push_back((id, Ok(bytes)));
            }
        }
        Ok(())
    }

    /// Begins to write all that waits for a client, of which `sent` bytes are gone (6).
    fn send(&mut self, id: Id, sent: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.closed {
            return Ok(());
        }
        let owed = self.workers.room(|room| room.owed(id, sent, &mut connection.sending));
        match owed {
            Owed::Lines => {
                let (lines, fd) = (&connection.sending, Fd(connection.stream.as_raw_fd()));
                let operation = opcode::Send::new(fd, lines.as_ptr(), lines.len() as u32).build();
                connection.in_flight += 1;
                self.submit(id.0 | SEND, operation)?;
            }
            Owed::Nothing => connection.sending = Vec::new(),
            Owed::Close => self.close(id),
        }
        Ok(())
    }

    /// One operation, done with every client that comes until one fails.
    fn submit_accept(&mut self) -> io::Result<()> {
        self.retry = None;
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()));
        self.submit(LISTENER, accept.flags(libc::SOCK_CLOEXEC).build())
    }

    fn on_accepted(&mut self, result: io::Result<usize>, more: bool) -> io::Result<()> {
        let answer = result.and_then(|fd| {
            // SAFETY: the kernel has just opened it for us.
            let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
            stream.peer_addr().map(|peer| (stream, peer))
        });
        match Accepted::from_result(answer) {
            Some(Accepted::Connection(stream, peer)) => self.arrived.push_back((stream, peer)),
            Some(Accepted::Pause) => self.retry = Some(Instant::now() + RETRY),
            Some(Accepted::WouldBlock) | None => {}
        }
        if more || self.retry.is_some() { Ok(()) } else { self.submit_accept() }
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let id = self.workers.room(|room| room.join(Instant::now(), &mut self.effects));
        let (receiving, sending) = (Vec::new(), Vec::new());
        let connection =
            Connection { stream, peer, receiving, sending, in_flight: 0, closed: false };
        self.connections.insert(id, connection);
        self.receive(id, Vec::with_capacity(chat::READ))
    }

    /// A connection has failed (`ECONNRESET`, `EPIPE`, a time-out): that too completes its read.
    fn lose(&mut self, id: Id, error: io::Error) {
        debug!("{id}: {error}");
        self.close(id);
        self.completed.push_back((id, Err(error)));
    }

    /// Ends what is in flight, and closes when that has come back: only then is the descriptor's
    /// number free for another client, and the memory for something else.
    fn close(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !mem::replace(&mut connection.closed, true) {
            info!("{} left", connection.peer);
            // This fails for a connection that is reset: then nothing stays in flight.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        if connection.in_flight == 0 {
            self.connections.remove(&id);
            self.retry = self.retry.map(|_| Instant::now());
        }
    }
}
