//! POSIX AIO: the process hands a socket and a buffer to the library, and a signal comes when the
//! bytes are in the buffer.
//!
//! ```text
//!      application                glibc, a thread for each      kernel
//!  (1) aio_read(8, buffer) ────▶  read(8) ───────────────────▶  ┐ wait: until the peer sends
//!  (2) poll: for signals            blocked                     ┘ a message has arrived
//!        blocked                    6 bytes ◀────────────────     copy: into the buffer
//!        blocked  ◀── SIGUSR1 ──                                  completion
//!  (3) aio_error, aio_return = 6
//!  (4) aio_write(8, buffer) ───▶  write(8) ──────────────────▶    copy; it blocks until all fits
//! ```
//!
//! The process is told after the second phase: *completion*. With SIGIO it is told after the first,
//! *readiness*, and has the copy before it. A message: (1) socket and buffer are the library's from
//! now on; (2) one thread waits for the signal, for new clients, and for the end; (3) the signal
//! does not say which operation has completed, so all are asked; this one hands socket and buffer
//! back; (4) they are handed over again, to write, and then from (1) on.
//!
//! Run: `cargo run -p aio-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/aio-echo.svg`.
//!
//! Use it when: you want to see it work. On Linux it is threads that block: with 64 busy clients,
//! 12 system calls a message (epoll-echo: 2.0) and twice epoll-echo's CPU; with one beside 900 idle
//! it is twenty times, for (3) asks them all (docs/benchmarks: 64 active, 1+900).
//! Limits: glibc only. A connection occupies a thread and a buffer, 16 KiB even when idle; so 1024
//! are served, and a client beyond that is refused: it is logged and closed.
//! Compare with: `sigio-echo/src/main.rs` (a signal too, but for readiness),
//! `blocking-echo/src/main.rs` (the same threads), `uring-echo/src/main.rs` (none).

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use aio_echo::{Idle, InFlight, own_pages, start_helpers};
use common::{Accepted, ECHO_ADDR, accept, announce, listen, run, stop_socket};
use log::{info, trace, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Connections served, and threads that glibc may start: each connection has one operation in
/// flight, always. More would work; but glibc looks through its list of them at each hand-over.
const CONNECTIONS: usize = 1024;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Bytes read at once: as many as where the process copies (`common/src/connection.rs`).
const BUFFER: usize = 64 * 1024;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: u16 = 100;
/// Says that operations have completed. An ordinary signal: see [`Idle::new`].
const COMPLETED: Signal = Signal::SIGUSR1;

struct Server {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    /// Readable: [`COMPLETED`] has come.
    completed: SignalFd,
    connections: Vec<Connection>,
    /// Out of descriptors: the listener is not waited for, as it would be ready all the time.
    starved: bool,
}

struct Connection {
    peer: SocketAddr,
    /// Has the socket and the buffer: they are not ours while it is in flight, which is always.
    operation: InFlight,
    /// What of the buffer is being written; empty while it is being read into.
    owed: Range<usize>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        start_helpers(CONNECTIONS as i32); // Pitfall: aio-pool-of-twenty
        own_pages(BUFFER as i32);
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        // Blocked, it stays pending until it is read; unblocked, it would end the process.
        let signals = SigSet::from(COMPLETED);
        signals.thread_block()?;
        let completed = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        Server { listener, stop, completed, connections: Vec::new(), starved: false }.serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let starved = self.starved;
            let door = if starved { PollFlags::empty() } else { PollFlags::POLLIN };
            let timeout = if starved { PollTimeout::from(RETRY) } else { PollTimeout::NONE };
            let mut ready = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.completed.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), door),
            ];
            trace!("wait: poll"); // (2)
            match poll(&mut ready, timeout) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => result?,
            };
            let [stop, completed, incoming] = ready.map(|fd| fd.any().unwrap_or(true));
            trace!("wait: poll = stop {stop}, completed {completed}, incoming {incoming}");

            if stop {
                return Ok(());
            }
            if completed {
                // Read it before asking: what completes later than this sends another one.
                self.completed.read_signal()?;
                let connections = mem::take(&mut self.connections).into_iter();
                self.connections = connections.filter_map(Connection::go_on).collect(); // in place
            }
            if incoming || starved {
                self.accept_some()?;
            }
        }
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer),
                Accepted::WouldBlock => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.starved = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.connections.len() == CONNECTIONS {
            warn!("{peer} refused: all {CONNECTIONS} helper threads have a connection");
            return;
        }
        let idle = Idle::new(stream, Vec::with_capacity(BUFFER), COMPLETED);
        // (1)
        match idle.read() {
            Ok(operation) => self.connections.push(Connection { peer, operation, owed: 0..0 }),
            Err(error) => warn!("{peer} refused: {error}"),
        }
    }
}

impl Connection {
    /// Takes the operation back if it has completed, and hands the next one over; `None` where
    /// the peer is done, or lost: nothing is in flight then, and the socket is closed.
    fn go_on(self) -> Option<Self> {
        let Self { peer, operation, mut owed } = self;
        let (idle, result) = match operation.done() {
            Ok(done) => done, // (3)
            Err(operation) => return Some(Self { peer, operation, owed }),
        };
        match result.and_then(|count| next(idle, count, &mut owed)) {
            Ok(Some(operation)) => return Some(Self { peer, operation, owed }),
            Ok(None) => info!("{peer} left"),
            // A reset (`ECONNRESET`, `EPIPE`), a time-out, a lost route: of this peer only.
            Err(error) => info!("{peer} left: {error}"),
        }
        None
    }
}

/// Hands over what follows on `count` bytes copied: nothing, at the end of the input.
fn next(mut idle: Idle, count: usize, owed: &mut Range<usize>) -> io::Result<Option<InFlight>> {
    let fd = idle.socket().as_raw_fd();
    if Range::is_empty(owed) {
        trace!("copy: aio_read({fd}) = {count}");
        *owed = 0..count;
        if count == 0 {
            return Ok(None);
        }
    } else {
        trace!("copy: aio_write({fd}) = {count} of {}", owed.len());
        owed.start += count;
    }
    if Range::is_empty(owed) {
        idle.buffer().clear();
        idle.read().map(Some) // (1)
    } else {
        idle.write(owed.start).map(Some) // (4)
    }
}
