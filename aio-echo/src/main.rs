//! POSIX AIO: the process submits a read, and a signal reports that the bytes are in its buffer.
//!
//! ```text
//!      application                glibc, a helper thread        kernel
//!  (1) aio_read(8, buffer) ────▶  read(8) ───────────────────▶  ┐ wait: until data for 8 arrives
//!  (2) poll, for the signal         asleep                      ┘ a message has arrived
//!        asleep                     6 bytes ◀────────────────     copy: into the buffer
//!        asleep   ◀── SIGUSR1 ──                                  completion
//!  (3) aio_error, aio_return = 6
//!  (4) aio_write(8, buffer) ───▶  write(8) ──────────────────▶    copy: blocks until all is written
//! ```
//!
//! This is completion: the signal arrives after the copy. With SIGIO, it arrives after the wait
//! (readiness), and the process then copies by itself.
//!
//! How a message travels: (1) The server submits a read. From now on, socket and buffer belong to
//! glibc. (2) One thread waits for the signal, for new clients, and for SIGINT or SIGTERM. (3) A
//! standard signal does not queue, so one may stand for many completions, and the server checks all
//! operations. A completed one returns socket and buffer. (4) The server submits a write of the
//! message, and then goes back to (1).
//!
//! The catch: each operation occupies a thread of glibc. If glibc cannot create one, it reports no
//! error, and the operation waits until another one completes, which may be never. So the server
//! admits a client only if one more thread can be started. (5) Until a thread is known to have
//! started an operation, the server checks it every `START_RETRY`, and `src/lib.rs` submits it
//! again.
//!
//! Run: `cargo run -p aio-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/aio-echo.svg`.
//!
//! Use it when: you want to see how it works. On Linux it is a pool of blocking threads. With 64 busy
//! clients it makes 12 system calls per message (epoll-echo: 2.0) and uses twice epoll-echo's CPU.
//! With one busy and 900 idle clients it uses twenty times the CPU, because of (3) (docs/benchmarks:
//! 64 active, 1+900).
//! Limits: glibc only. A connection occupies a thread and a buffer: together 16 KiB of memory even
//! when idle. The server refuses the 1025th client, and an earlier one if the system has no more
//! threads or memory. So 1024 silent clients keep others out.
//! Compare with: `sigio-echo/src/main.rs` (a signal for readiness), `blocking-echo/src/main.rs` (the
//! same threads), `uring-echo/src/main.rs` (completion without threads).

use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use aio_echo::{Idle, InFlight, START_RETRY, allocate_buffer, can_start_threads, set_max_helpers};
use anyhow::{Context, ensure};
use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, accept, announce, listen, run, stop_socket};
use log::{info, trace, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The most clients, and the most threads of glibc: each client always has one operation in flight.
/// (glibc searches the list of all operations at each submission, so more would be slow.)
const MAX_CLIENTS: usize = 1024;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The signal that reports completions: a standard one, see [`Idle::new`].
const COMPLETED: Signal = Signal::SIGUSR1;

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    /// Readable while `COMPLETED` is pending.
    completed: SignalFd,
    connections: Vec<Connection>,
    /// True after `accept` failed, for example for lack of file descriptors.
    accept_paused: bool,
}

struct Connection {
    peer: SocketAddr,
    /// Owns the socket and the buffer.
    operation: InFlight,
    /// The part of the buffer that is being written. Empty while the connection reads.
    pending: Range<usize>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        set_max_helpers(MAX_CLIENTS as i32); // Pitfall: aio-pool-of-twenty
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let stop = stop_socket()?;
        // A blocked signal stays pending until it is read. Otherwise it would end the process.
        let signals = SigSet::from(COMPLETED);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let completed = SignalFd::with_flags(&signals, flags).context("signalfd")?;
        announce(listener.local_addr()?);
        let connections = Vec::with_capacity(MAX_CLIENTS);
        Server { listener, stop, completed, connections, accept_paused: false }.serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let unstarted = self.connections.iter().any(|client| !client.operation.is_started());
            let timeout = if unstarted || self.accept_paused {
                PollTimeout::try_from(START_RETRY.min(ACCEPT_RETRY))?
            } else {
                PollTimeout::NONE
            };
            // A paused listener is not watched: it stays readable, and `poll` would return at once.
            let accept = if self.accept_paused { PollFlags::empty() } else { PollFlags::POLLIN };
            let mut list = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.completed.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), accept),
            ];
            trace!("wait: poll"); // (2)
            match poll(&mut list, timeout) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => result.context("poll")?,
            };
            let [stop, completed, listener] = list.map(|entry| entry.any() != Some(false));
            trace!("wait: poll = stop {stop}, completed {completed}, listener {listener}");

            if stop {
                return Ok(()); // ends the process with everything that is in flight
            }
            // Take the signal before the operations are checked: a later completion raises it again.
            // The signal may arrive between `poll` and this read, so the read decides, not `poll`.
            let completed = self.completed.read_signal().context("read(signalfd)")?.is_some();
            if completed || unstarted {
                let connections = mem::take(&mut self.connections).into_iter();
                self.connections = connections.filter_map(Connection::step).collect();
            }
            if listener || self.accept_paused {
                self.accept_some();
            }
        }
    }

    fn accept_some(&mut self) {
        self.accept_paused = false;
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => {
                    if let Err(error) = self.add(stream, peer) {
                        warn!("{peer} refused: {error:#}");
                    }
                }
                Accepted::WouldBlock => return,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.accept_paused = true;
                    return;
                }
            }
        }
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        ensure!(self.connections.len() < MAX_CLIENTS, "all {MAX_CLIENTS} threads have a client");
        let buffer = allocate_buffer(BUFFER_SIZE)?;
        ensure!(can_start_threads(1), "the system permits no more threads");
        let operation = Idle::new(stream, buffer, COMPLETED).submit_read()?; // (1)
        self.connections.push(Connection { peer, operation, pending: 0..0 });
        Ok(())
    }
}

impl Connection {
    /// If the operation has completed, submits the next one. Returns `None` if the connection has
    /// ended. That closes the socket, which is safe: nothing is in flight then.
    fn step(self) -> Option<Self> {
        let Self { peer, operation, mut pending } = self;
        let (mut idle, result) = match operation.complete() {
            Ok(completed) => completed,                                       // (3)
            Err(operation) => return Some(Self { peer, operation, pending }), // (5)
        };
        let fd = idle.socket().as_raw_fd();
        let next = match result {
            Ok(0) if pending.is_empty() => Ok(None), // EOF. No output is pending here.
            Ok(count) if pending.is_empty() => {
                trace!("copy: aio_read({fd}) = {count}");
                pending = 0..count;
                idle.submit_write(0).map(Some) // (4)
            }
            Ok(count) => {
                trace!("copy: aio_write({fd}) = {count} of {}", pending.len());
                pending.start += count;
                if pending.is_empty() {
                    idle.buffer().clear();
                    idle.submit_read().map(Some) // (1)
                } else {
                    idle.submit_write(pending.start).map(Some)
                }
            }
            Err(error) => Err(error),
        };
        match next {
            Ok(Some(operation)) => return Some(Self { peer, operation, pending }),
            Ok(None) => info!("{peer} disconnected"),
            // A reset (ECONNRESET, EPIPE) or a timeout ends this connection only.
            Err(error) => info!("{peer} disconnected: {error}"),
        }
        None
    }
}
