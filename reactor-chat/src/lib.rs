//! What `reactor-chat-single` and `reactor-chat-multi` share: accepting, and the state of a
//! connection. Their waits, reads and writes are in their own files.
//!
//! For `reactor-chat-multi`, [`SharedRoom`] connects the loops.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use common::chat::{
    Computation, Id, Input, Output, WriterStep, has_unread_input, shut_down_writing, write_output,
};
use common::{Accepted, Arg, accept, fail, lock};
use log::{info, warn};
use nix::sys::epoll::{EpollFlags, EpollTimeout};

mod shared;
pub use shared::{Chat, Mail, SharedRoom};

/// Interest in input, edge-triggered: each change is reported once.
pub const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);
/// Interest in both directions, for clients.
pub const INTEREST: EpollFlags = READABLE.union(EpollFlags::EPOLLOUT);

/// Event sources that are not clients. The ids of clients count up from 0.
pub const LISTENER: Id = Id(u64::MAX);
/// SIGINT or SIGTERM has arrived.
pub const STOP: Id = Id(u64::MAX - 1);
/// Another thread has put something into the mailbox of a loop.
pub const MAILBOX: Id = Id(u64::MAX - 2);

/// Time until `accept` is tried again while accepting is paused.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How many loops `reactor-chat-multi` has.
pub const LOOPS: Arg = Arg {
    name: "LOOPS",
    default: "0",
    meaning: "number of loops, each in a thread of its own; 0 for one per core",
};
/// The most loops that can be asked for. Each gets an equal part of the
/// [`INPUT_BUDGET`](common::chat::INPUT_BUDGET), which must not be too small for a read.
const MAX_LOOPS: usize = 64;

/// Parses the argument [`LOOPS`].
///
/// # Errors
/// It is not a number from 0 to 64.
pub fn parse_loops(text: &str) -> anyhow::Result<usize> {
    let loops = text.parse().with_context(|| format!("LOOPS is a number, not {text:?}"))?;
    ensure!(loops <= MAX_LOOPS, "LOOPS is {loops}, not 0 to {MAX_LOOPS}");
    if loops > 0 { Ok(loops) } else { Ok(thread::available_parallelism()?.get().min(MAX_LOOPS)) }
}

/// Ends the process if `result`, with which a loop has ended, is an error. Several loops can fail at
/// the same time: only the first error is printed.
pub fn end(result: anyhow::Result<()>) {
    static ENDING: Mutex<()> = Mutex::new(());
    let Err(error) = result else { return };
    let _first = lock(&ENDING); // released when the process has ended
    let _ = fail(1, &format!("{error:#}"));
    process::exit(1);
}

/// A client's connection.
pub struct Connection {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The client waits for its turn to be read, or has input that is not processed yet. It is read
    /// again without a new event, unless it has sent its FIN.
    pub reading: bool,
    /// Output taken from the room. If it is not empty, the socket is full.
    output: Output,
}

impl Connection {
    /// Makes the socket non-blocking.
    ///
    /// # Errors
    /// None in practice: the call fails only for invalid arguments.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, peer, reading: false, output: Output::default() })
    }

    /// Returns whether output is pending that the socket did not take.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.output.is_empty()
    }

    /// Returns whether no input has arrived that is not processed yet.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.reading && !has_unread_input(&self.stream)
    }

    /// Writes until nothing is pending or the socket is full. `take_output` is
    /// [`Room::take_output`](common::chat::Room::take_output) for this client. Returns its last
    /// result.
    ///
    /// # Errors
    /// The connection has failed.
    pub fn write(
        &mut self,
        mut take_output: impl FnMut(usize, &mut Output) -> WriterStep,
    ) -> io::Result<WriterStep> {
        let mut step = take_output(0, &mut self.output);
        while step == WriterStep::Write {
            let written = write_output(&self.stream, &mut self.output)?;
            let is_full = self.is_full();
            step = take_output(written, &mut self.output);
            if is_full {
                break; // until EPOLLOUT is reported
            }
        }
        if step == WriterStep::ShutDown {
            shut_down_writing(&self.stream);
        }
        Ok(step)
    }

    /// Closes the socket, and logs that.
    pub fn close(self, error: Option<&io::Error>) {
        match error {
            Some(error) => info!("{} disconnected: {error}", self.peer),
            None => info!("{} disconnected", self.peer),
        }
    }
}

/// A computation that a line of a client asked for, and the input after this line.
pub struct Job {
    /// The client.
    pub id: Id,
    /// What to compute.
    pub computation: Computation,
    /// What is processed after the result has been sent.
    pub rest: Input,
}

/// The listener, and whether to accept from it now.
pub struct Acceptor {
    listener: TcpListener,
    /// More connections may be waiting. Interest is edge-triggered: no event reports them again.
    pending: bool,
    /// When to accept again, after `accept` failed, for example for lack of file descriptors.
    retry: Option<Instant>,
}

impl Acceptor {
    /// Makes the listener non-blocking.
    ///
    /// # Errors
    /// None in practice: the call fails only for invalid arguments.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, pending: false, retry: None })
    }

    /// The listener is readable.
    pub fn on_readable(&mut self) {
        self.pending = true;
    }

    /// Returns whether to accept without waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pending && self.retry.is_none_or(|at| at <= Instant::now())
    }

    /// Returns when to accept again, while accepting is paused.
    #[must_use]
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Ends a pause, because a file descriptor is free now.
    pub fn resume(&mut self) {
        self.retry = None;
    }

    /// Accepts a connection, if one is waiting and accepting is not paused.
    pub fn accept(&mut self) -> Option<Connection> {
        if !self.is_ready() {
            return None;
        }
        self.retry = None;
        match accept(&self.listener) {
            Accepted::Connection(stream, peer) => match Connection::new(stream, peer) {
                Ok(connection) => return Some(connection),
                Err(error) => warn!("{peer} refused: {error}"),
            },
            Accepted::WouldBlock => self.pending = false,
            // Pitfalls: accept-spins, spare-descriptor
            Accepted::Pause => self.retry = Some(Instant::now() + ACCEPT_RETRY),
        }
        None
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Returns how long `epoll_wait` may wait.
#[must_use]
pub fn timeout_until(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let time = deadline.saturating_duration_since(Instant::now());
    // epoll counts whole milliseconds. Rounded down, the last one would be a busy loop.
    (time + Duration::from_millis(1)).try_into().unwrap_or(EpollTimeout::MAX)
}
