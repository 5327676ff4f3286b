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
//! A line: (1) a client's socket and a buffer are the system's, to read into, with the signal to
//! send; (2) the main thread waits for new clients, and for nothing else; (3) the read is complete,
//! and the signal interrupts that wait; (4) its handler passes it on; (5) the worker takes the
//! line, applies the room's rules, gives the system all that waits for a client in one write, and
//! the buffer of (1) again; (6) the write is complete; (7) what has come together meanwhile is the
//! next one, or there is none, or the client has quit, and this was all.
//!
//! Each column is a file: this one, `worker.rs`, `connection.rs`. The signal says that something is
//! complete, not what: the worker asks all operations. So it makes no difference when signals are
//! merged, or the kernel's queue of them is full.
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
//! Drawn from a trace: `docs/figures/proactor-chat.svg`.
//!
//! Use it when: you want to see the pattern as it was drawn. On Linux "the system" is glibc, with a
//! thread that blocks for each operation: a delivery to one of 1000 clients takes 1.3 times the CPU
//! of a plain tokio chat (docs/benchmarks: chat of 1000), as nearly each one wakes a thread and
//! sends a signal that wakes two more.
//! Limits: glibc only. A client is two descriptors and up to two threads; 1024 are served, and one
//! beyond that is refused: it is logged and closed.
//! Compare with: `proactor-chat-uring.rs` (the kernel completes), `proactor-chat-simulated.rs`
//! (a thread completes), `aio-echo/src/main.rs` (POSIX AIO, without a worker).

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use aio_echo::set_max_helpers;
use anyhow::Context;
use common::chat::{self, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, announce, listen, run, stop_socket};
use log::{trace, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::low_level::pipe;

mod connection;
mod worker;
use connection::{COMPLETED, Connection};
use worker::Worker;

/// Clients served. Each has a read in flight, and maybe a write: twice as many threads.
const CONNECTIONS: usize = 1024;
/// Connections accepted at once, so that SIGTERM need not wait for a crowd at the door.
const ACCEPTS: usize = 64;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: u16 = 100;

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::idle(&idle)?);
        set_max_helpers(2 * CONNECTIONS as i32); // Pitfall: aio-pool-of-twenty
        let (hints, hint) = UnixStream::pair()?;
        hint.set_nonblocking(true)?; // full, it is readable, and that is all it is for
        pipe::register(COMPLETED as i32, hint.try_clone()?)?; // (4); pitfall: handler-prints
        let (door, arrivals) = mpsc::channel();
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        Worker::start(room, hints, arrivals)?;
        Door { listener, stop, arrivals: door, seats: Arc::default(), hint }.serve()
    })
}

/// What the main thread watches.
struct Door {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    arrivals: Sender<Connection>,
    /// One owner for each client, until nothing of its is in flight; and this one.
    seats: Arc<()>,
    hint: UnixStream,
}

impl Door {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut starved = false;
        loop {
            let door = if starved { PollFlags::empty() } else { PollFlags::POLLIN };
            let timeout = if starved { PollTimeout::from(RETRY) } else { PollTimeout::NONE };
            let mut ready = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), door),
            ];
            trace!("wait: poll"); // (2)
            match poll(&mut ready, timeout) {
                Err(Errno::EINTR) => {
                    trace!("wait: poll = interrupted"); // (3), (6): the handler (4) has run
                    continue;
                }
                result => result?,
            };
            let [stop, incoming] = ready.map(|fd| fd.any().unwrap_or(true));
            trace!("wait: poll = stop {stop}, incoming {incoming}");
            if stop {
                return Ok(()); // and the process ends, whatever is in flight
            }
            starved = self.accept_some()?;
            let _ = self.hint.write(b"!"); // fails where it is full
        }
    }

    /// Accepts, and answers whether descriptors are short.
    fn accept_some(&self) -> anyhow::Result<bool> {
        for _ in 0..ACCEPTS {
            // Each client needs two (pitfall: aio-write-behind-read): is there a second one?
            let answer = match self.stop.try_clone() {
                Ok(_spare) => Some(accept(&self.listener)),
                Err(error) => Accepted::from_result(Err(error)),
            };
            match answer {
                Some(Accepted::Connection(stream, peer)) => self.add(stream, peer)?,
                Some(Accepted::Pause) => return Ok(true),
                Some(Accepted::WouldBlock) | None => break,
            }
        }
        Ok(false)
    }

    fn add(&self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        if Arc::strong_count(&self.seats) > CONNECTIONS {
            warn!("{peer} refused: {CONNECTIONS} are here, each with two helper threads");
            return Ok(());
        }
        match Connection::new(stream, peer, Arc::clone(&self.seats)) {
            Ok(connection) => self.arrivals.send(connection).ok().context("the worker is gone")?,
            Err(error) => warn!("{peer} refused: {error}"),
        }
        Ok(())
    }
}
