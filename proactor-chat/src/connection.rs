//! A client's connection, as the system completes what is asked of it: two descriptors, each with a
//! buffer, and each at any time either ours or in flight.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use common::chat::READ;
use log::trace;
use nix::sys::signal::Signal;

/// Says that operations have completed. An ordinary signal: see [`aio_echo::Idle::new`].
pub const COMPLETED: Signal = Signal::SIGUSR1;
/// How long a write may find no room and the others wait for it: see [`Connection::is_prompt`].
const PATIENCE: Duration = Duration::from_millis(10);

/// Shared, so that it can be shut down while an operation has it.
type Socket = Arc<TcpStream>;
type Idle = aio_echo::Idle<Socket>;
type InFlight = aio_echo::InFlight<Socket>;

pub struct Connection {
    pub peer: SocketAddr,
    /// To be forgotten when nothing is in flight.
    pub closed: bool,
    socket: Socket,
    pub reader: Half,
    /// With a descriptor of its own: glibc does what is asked of one descriptor one after another,
    /// and a write would wait for the read before it, that is for the client's next line.
    pub writer: Half,
    /// The last write did not find enough room in time.
    slow: bool,
    _seat: Arc<()>,
}

/// One direction of a connection: one of the two, or none where the system has refused it.
pub struct Half {
    ours: Option<Idle>,
    in_flight: Option<InFlight>,
}

impl Connection {
    /// Takes a second descriptor, and has the seat until it is forgotten.
    pub fn new(socket: TcpStream, peer: SocketAddr, seat: Arc<()>) -> io::Result<Self> {
        socket.set_write_timeout(Some(PATIENCE))?;
        // Pitfall: aio-write-behind-read
        let writer = Half::new(Arc::new(socket.try_clone()?), Vec::new());
        let socket = Arc::new(socket);
        let reader = Half::new(Arc::clone(&socket), Vec::with_capacity(READ));
        Ok(Self { peer, closed: false, socket, reader, writer, slow: false, _seat: seat })
    }

    /// Has the next bytes read (1).
    pub fn read(&mut self) -> io::Result<()> {
        self.reader.buffer().map(Vec::clear);
        self.reader.give(Idle::submit_read)
    }

    /// Has all written that is in the buffer.
    pub fn write(&mut self) -> io::Result<()> {
        self.writer.give(|writer| writer.submit_write(0))
    }

    /// The result of a read that has completed.
    pub fn has_read(&mut self) -> Option<io::Result<usize>> {
        let result = self.reader.take_back()?;
        if let Ok(count) = &result {
            trace!("copy: aio_read({}) = {count}", self.socket.as_raw_fd());
        }
        Some(result)
    }

    /// The result of a write that has completed: it may have written less than all, or nothing.
    pub fn has_written(&mut self) -> Option<io::Result<usize>> {
        let result = match self.writer.take_back()? {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0), // in time, that is
            result => result,
        };
        let all = self.writer.buffer().map_or(0, |lines| lines.len());
        if let Ok(count) = &result {
            trace!("copy: aio_write({}) = {count} of {all}", self.socket.as_raw_fd());
        }
        let slow = result.as_ref().is_ok_and(|&count| count < all);
        if slow != self.slow {
            self.slow = slow;
            let patience = if slow { None } else { Some(PATIENCE) };
            // This fails for a time-out of zero only.
            let _ = self.socket.set_write_timeout(patience);
        }
        Some(result)
    }

    /// A write is under way, and will be complete within [`PATIENCE`] of the system's beginning it.
    ///
    /// The one after a write that was not is given all the time that it takes.
    pub fn is_prompt(&self) -> bool {
        self.writer.in_flight.is_some() && !self.slow
    }

    pub fn is_in_flight(&self) -> bool {
        self.reader.in_flight.is_some() || self.writer.in_flight.is_some()
    }

    /// Completes what is in flight: neither closing its descriptor nor `aio_cancel(3)` does.
    /// Pitfall: aio-close-in-flight.
    pub fn shut_down(&mut self) {
        self.closed = true;
        // This fails for a connection that is reset: then nothing stays in flight.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Half {
    fn new(socket: Socket, buffer: Vec<u8>) -> Self {
        Self { ours: Some(Idle::new(socket, buffer, COMPLETED)), in_flight: None }
    }

    /// The buffer, where it is ours.
    pub fn buffer(&mut self) -> Option<&mut Vec<u8>> {
        self.ours.as_mut().map(Idle::buffer)
    }

    fn give(&mut self, submit: impl FnOnce(Idle) -> io::Result<InFlight>) -> io::Result<()> {
        if let Some(operation) = self.ours.take() {
            self.in_flight = Some(submit(operation)?);
        }
        Ok(())
    }

    fn take_back(&mut self) -> Option<io::Result<usize>> {
        match self.in_flight.take()?.complete() {
            Ok((operation, result)) => {
                self.ours = Some(operation);
                Some(result)
            }
            Err(in_flight) => {
                self.in_flight = Some(in_flight);
                None
            }
        }
    }
}
