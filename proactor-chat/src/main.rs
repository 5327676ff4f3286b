//! The Proactor of the textbook: the system completes reads and writes. A signal handler wakes a
//! worker, which processes what has completed.
//!
//! ```text
//!      main               worker                    glibc, kernel
//!                    (1) aio_read(A, buffer) ────▶  ┐ wait: for a line
//!  (2) poll: for new clients, blocked               ┘ copy: into the buffer
//!      interrupted ◀──────────────── SIGUSR1 ── (3)   completion
//!  (4) its handler ────▶ wakes
//!  (2) poll          (5) aio_error, aio_return = 6
//!                        process: the rules
//!                        aio_write(B), (C) … ────▶  ┐ wait: for room
//!                        aio_read(A), from (1)      ┘ copy
//!      interrupted ◀──────────────── SIGUSR1 ── (6)   completion
//!  (4) its handler ────▶ (7) aio_error: what next?
//! ```
//!
//! How a line travels: (1) The worker submits a read: a client's socket, a buffer, and the signal
//! to send on completion. (2) The main thread waits for new clients and for SIGINT or SIGTERM, not
//! for the clients that are connected. (3) The read has completed, and the signal interrupts that
//! wait. (4) The signal handler wakes the worker. (5) The worker takes the line and applies the
//! rules of the room. It submits the output of a client as one write (at about 64 KiB it stops
//! adding blocks), and the buffer of (1) for the next read. (6) The write has completed. (7) The
//! worker writes what became pending meanwhile, waits for more, or closes.
//!
//! The seven steps of the textbook (游双, Linux 高性能服务器编程), and the steps here:
//!
//! | textbook | here |
//! |---|---|
//! | 1 the main thread starts the read | (1), but the worker starts it |
//! | 2, 5 the main thread continues | (2) |
//! | 3 the read has completed: a signal | (3) |
//! | 4 the handler chooses one of several workers | (4), (5): one worker, because there is one room |
//! | 6 the write has completed: a signal | (6) |
//! | 7 the handler chooses a worker | (4), (7) |
//!
//! A client is disconnected when more than 256 KiB are pending for it. A client that has sent its
//! FIN still gets what is pending, for at most 10 s. When there is no free file descriptor, the
//! server stops accepting for 100 ms.
//!
//! The catch: the signal reports that something has completed, not what. So the worker looks at all
//! operations. Then it does not matter if signals merge, or if the kernel's queue of them is full.
//!
//! Files: the three columns are this file, `worker.rs`, and `connection.rs`. A thread of its own
//! computes (`/factor N`): `calculator.rs`.
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
//! Figure: `docs/figures/proactor-chat.svg`.
//!
//! Use it when: you want to see the pattern as it is drawn. On Linux, "the system" is glibc, with a
//! thread that blocks for each operation. A delivery to one of 1000 clients takes 1.3 times the CPU
//! of a plain tokio chat (docs/benchmarks: chat of 1000), because nearly each delivery wakes a
//! thread, and sends a signal that wakes the main thread and the worker.
//! Limits: glibc only. A client uses two file descriptors and up to two threads. 1024 clients are
//! served; one more is refused.
//! Compare with:
//! - `proactor-chat/src/bin/proactor-chat-uring.rs`: the kernel completes the operations.
//! - `proactor-chat/src/bin/proactor-chat-simulated.rs`: a thread completes them.
//! - `aio-echo/src/main.rs`: POSIX AIO without a worker.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use aio_echo::set_max_helpers;
use anyhow::Context;
use common::chat::{self, Room};
use common::{Accepted, CHAT_ADDR, IDLE, accept, announce, listen, run, stop_socket};
use log::{trace, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use signal_hook::low_level::pipe;

mod admission;
mod calculator;
mod connection;
mod worker;
use admission::Admission;
use calculator::Calculator;
use connection::{COMPLETED, Connection};
use worker::Worker;

/// The most clients. Each has a read in flight, and sometimes a write: two helper threads of glibc.
const MAX_CLIENTS: usize = 1024;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    /// Takes accepted connections to the worker.
    accepted: Sender<Connection>,
    /// Wakes the worker.
    waker: UnixStream,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::parse_idle(&idle)?);
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        set_max_helpers(2 * MAX_CLIENTS as i32); // Pitfall: aio-pool-of-twenty
        let (wake, waker) = UnixStream::pair()?;
        waker.set_nonblocking(true)?; // if the pair is full, a wake-up is pending already
        let (accepted, new_connections) = mpsc::channel();
        // The worker and the calculator inherit the mask, so the signal goes to the main thread.
        SigSet::from(COMPLETED).thread_block()?;
        let calculator = Calculator::start(waker.try_clone()?).context("cannot start a thread")?;
        let admission = Admission::new(new_connections).context("cannot open /proc/self/stat")?;
        Worker::start(room, wake, admission, calculator).context("cannot start a thread")?;
        pipe::register(COMPLETED as i32, waker.try_clone()?)?; // (4); pitfall: handler-prints
        // The parent process may have blocked the signal too. Pitfall: blocked-signals-inherited
        SigSet::from(COMPLETED).thread_unblock()?;
        announce(address);
        Server { listener, stop, accepted, waker }.serve()
    })
}

impl Server {
    /// The main thread.
    fn serve(&mut self) -> anyhow::Result<()> {
        // When to accept again. A time and not a duration, because completions interrupt `poll`.
        let mut accept_retry: Option<Instant> = None;
        loop {
            let rest = accept_retry.map(|at| at.saturating_duration_since(Instant::now()));
            let (interest, timeout) = match rest {
                // Rounded up to whole milliseconds.
                Some(rest) if !rest.is_zero() => {
                    (PollFlags::empty(), PollTimeout::try_from(rest + Duration::from_millis(1))?)
                }
                _ => (PollFlags::POLLIN, PollTimeout::NONE),
            };
            let mut entries = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), interest),
            ];
            trace!("wait: poll"); // (2)
            match poll(&mut entries, timeout) {
                Ok(count) => trace!("wait: poll = {count} ready"),
                Err(Errno::EINTR) => {
                    trace!("wait: poll = EINTR"); // (3), (6): the handler (4) has run
                    continue;
                }
                Err(error) => return Err(error).context("poll"),
            }
            if entries[0].any() == Some(true) {
                return Ok(()); // ends the process, whatever is in flight
            }
            if entries[1].any() == Some(true) {
                accept_retry = self.accept_some()?;
                let _ = self.waker.write(b"!"); // if the pair is full, a wake-up is pending already
            }
        }
    }

    /// Accepts connections. Returns when to accept again, if accepting must pause.
    fn accept_some(&self) -> anyhow::Result<Option<Instant>> {
        for _ in 0..MAX_ACCEPTS {
            // A client needs two file descriptors: is there a second one?
            let accepted = match self.stop.try_clone() {
                Ok(_second) => accept(&self.listener),
                Err(error) => Accepted::from_result(Err(error)).unwrap_or(Accepted::Pause),
            };
            match accepted {
                Accepted::Connection(stream, peer) => match Connection::new(stream, peer) {
                    Ok(connection) => {
                        self.accepted.send(connection).ok().context("the worker has ended")?;
                    }
                    Err(error) => warn!("{peer} refused: {error}"),
                },
                Accepted::WouldBlock => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => return Ok(Some(Instant::now() + ACCEPT_RETRY)),
            }
        }
        Ok(None)
    }
}
