//! A client's connection, for operations that the system completes.
//!
//! A connection has two sides, each with a file descriptor, a buffer and at most one operation:
//! - The *reader* always reads, except while the worker processes what it has read.
//! - The *writer* writes when output is pending. It needs its own file descriptor, because glibc
//!   performs the operations on one descriptor one after the other: a write would wait for the read
//!   before it, that is, for the client's next line. Pitfall: aio-write-behind-read

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio_echo::{Idle, InFlight};
use common::chat::{Input, Output, READ_SIZE, has_unread_input, shut_down_writing};
use log::{info, trace};
use nix::sys::signal::Signal;

/// The signal that reports completions. It is an ordinary signal: see [`Idle::new`].
pub const COMPLETED: Signal = Signal::SIGUSR1;
/// How long a write may wait for room in the socket. When the input budget is used up, the worker
/// waits for such writes before it processes more input.
const WRITE_TIMEOUT: Duration = Duration::from_millis(10);
/// The timeout of the next write to a client whose last write ran into `WRITE_TIMEOUT`. The worker
/// does not wait for such a client. When this timeout ends the write, the worker starts a new one,
/// which includes the output that came since.
const SLOW_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// A write takes whole blocks, until it has at least this many bytes.
const WRITE_SIZE: usize = 64 * 1024;

/// Shared by the reader and by [`Connection::close`].
type Socket = Arc<TcpStream>;

#[expect(clippy::struct_excessive_bools, reason = "they change independently of one another")]
pub struct Connection {
    pub peer: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    socket: Socket,
    reader: Side,
    writer: Side,
    /// Output taken from the room. The writer's buffer has a copy of its beginning.
    pub output: Output,
    /// The last write ran into its timeout.
    slow: bool,
    /// A completed read, or the rest of one, is not processed yet: the worker has it, or it waits
    /// for a computation.
    pub in_progress: bool,
    /// The connection has failed. The worker reports this to the room when nothing is in progress.
    pub failed: bool,
    /// The connection has been shut down, and is dropped when nothing is in flight or in progress.
    closed: bool,
}

/// One direction of a connection.
enum Side {
    /// The worker has the operation and its buffer.
    Idle(Idle<Socket>),
    /// The system has them.
    InFlight(InFlight<Socket>),
    /// The system has refused the operation.
    Refused,
}

impl Connection {
    /// Takes a second file descriptor.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let writer = Idle::new(Arc::new(stream.try_clone()?), Vec::new(), COMPLETED);
        let socket = Arc::new(stream);
        let reader = Idle::new(Arc::clone(&socket), Vec::with_capacity(READ_SIZE), COMPLETED);
        Ok(Self {
            peer,
            accepted: Instant::now(),
            socket,
            reader: Side::Idle(reader),
            writer: Side::Idle(writer),
            output: Output::default(),
            slow: false,
            in_progress: false,
            failed: false,
            closed: false,
        })
    }

    /// Lets the system read into `buffer` (1).
    pub fn start_read(&mut self, mut buffer: Vec<u8>) -> io::Result<()> {
        if let Some(mut operation) = self.reader.take_idle() {
            buffer.clear();
            *operation.buffer() = buffer;
            self.reader = Side::InFlight(operation.submit_read()?);
        }
        Ok(())
    }

    /// Returns the result of the read, once it has completed.
    pub fn finish_read(&mut self) -> Option<io::Result<Input>> {
        let count = match self.reader.finish()? {
            Ok(count) => count,
            Err(error) => return Some(Err(error)),
        };
        trace!("copy: aio_read({}) = {count}", self.socket.as_raw_fd());
        if count == 0 {
            // The kernel reports a reset once. If the write in flight gets the error, the read
            // returns 0 as it does at EOF. But a reset connection has no peer any more.
            let is_writing = matches!(self.writer, Side::InFlight(_));
            let was_reset = is_writing && self.socket.peer_addr().is_err();
            let reset = io::Error::from(ErrorKind::ConnectionReset);
            return Some(if was_reset { Err(reset) } else { Ok(Input::Fin) });
        }
        let buffer = self.reader.buffer().map(mem::take).unwrap_or_default();
        Some(Ok(Input::Bytes(buffer)))
    }

    /// Lets the system write the first blocks of the output: see [`WRITE_SIZE`]. They are copied,
    /// because `aio_write(3)` takes one contiguous buffer.
    pub fn start_write(&mut self) -> io::Result<()> {
        if let Some(mut operation) = self.writer.take_idle() {
            let buffer = operation.buffer();
            buffer.clear();
            for block in self.output.blocks() {
                buffer.extend_from_slice(block);
                if buffer.len() >= WRITE_SIZE {
                    break;
                }
            }
            self.writer = Side::InFlight(operation.submit_write(0)?);
        }
        Ok(())
    }

    /// Returns how many bytes the write has written, once it has completed, and removes them from
    /// the output. They can be fewer than all.
    pub fn finish_write(&mut self) -> Option<io::Result<usize>> {
        let count = match self.writer.finish()? {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0, // the timeout is over
            Err(error) => return Some(Err(error)),
        };
        let length = self.writer.buffer().map_or(0, |buffer| buffer.len());
        trace!("copy: aio_write({}) = {count} of {length}", self.socket.as_raw_fd());
        self.output.advance(count);
        let slow = count < length;
        if slow != self.slow {
            self.slow = slow;
            let timeout = if slow { SLOW_WRITE_TIMEOUT } else { WRITE_TIMEOUT };
            // It fails only for a timeout of zero.
            let _ = self.socket.set_write_timeout(Some(timeout));
        }
        Some(Ok(count))
    }

    /// Frees the memory of the writer.
    pub fn free_write_buffer(&mut self) {
        if let Some(buffer) = self.writer.buffer() {
            *buffer = Vec::new();
        }
    }

    /// Returns whether a write is in flight that will complete within [`WRITE_TIMEOUT`].
    pub fn will_write_soon(&self) -> bool {
        matches!(self.writer, Side::InFlight(_)) && !self.slow
    }

    /// Returns whether an operation is in flight that no helper is known to have started. It must
    /// then be looked at again after [`aio_echo::START_RETRY`].
    pub fn is_unstarted(&self) -> bool {
        self.reader.is_unstarted() || self.writer.is_unstarted()
    }

    /// Returns whether input has arrived that the worker has not processed.
    ///
    /// The helper of a read in flight takes input from the socket as soon as it arrives. So the
    /// socket can be empty because a helper has taken the input after the worker called
    /// `finish_read`. Then the read is completed, or will be in a moment. This moment does no harm:
    /// it is after the second look, so input that arrives in it is later than the idle time allows.
    pub fn has_unread_input(&self) -> bool {
        match &self.reader {
            Side::InFlight(read) => has_unread_input(&self.socket) || read.is_completed(),
            Side::Idle(_) | Side::Refused => true,
        }
    }

    pub fn shut_down_writing(&self) {
        shut_down_writing(&self.socket);
    }

    /// Shuts the socket down. This completes the operations in flight, which close(2) and
    /// `aio_cancel(3)` do not. `Worker::release` closes it later.
    /// Pitfall: aio-close-in-flight
    pub fn close(&mut self, error: Option<&io::Error>) {
        if self.closed {
            return;
        }
        self.closed = true;
        match error {
            Some(error) => info!("{} disconnected: {error}", self.peer),
            None => info!("{} disconnected", self.peer),
        }
        // It fails if the peer has reset the connection. Then nothing stays in flight.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Returns whether the connection has been shut down.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether the connection can be dropped: it is closed, and nothing uses it.
    pub fn is_finished(&self) -> bool {
        let is_in_flight =
            matches!(self.reader, Side::InFlight(_)) || matches!(self.writer, Side::InFlight(_));
        self.closed && !is_in_flight && !self.in_progress
    }
}

impl Side {
    /// Takes the operation, if it is idle.
    fn take_idle(&mut self) -> Option<Idle<Socket>> {
        match mem::replace(self, Self::Refused) {
            Self::Idle(operation) => Some(operation),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Returns the result of the operation, once it has completed. It is idle then.
    fn finish(&mut self) -> Option<io::Result<usize>> {
        match mem::replace(self, Self::Refused) {
            Self::InFlight(operation) => match operation.complete() {
                Ok((operation, result)) => {
                    *self = Self::Idle(operation);
                    Some(result)
                }
                Err(operation) => {
                    *self = Self::InFlight(operation);
                    None
                }
            },
            other => {
                *self = other;
                None
            }
        }
    }

    fn is_unstarted(&self) -> bool {
        match self {
            Self::InFlight(operation) => !operation.is_started(),
            Self::Idle(_) | Self::Refused => false,
        }
    }

    /// Returns the buffer, if the operation is idle.
    fn buffer(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::Idle(operation) => Some(operation.buffer()),
            Self::InFlight(_) | Self::Refused => None,
        }
    }
}
