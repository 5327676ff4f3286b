//! An echo connection on a non-blocking socket. The servers with select, poll and level-triggered
//! epoll differ in how they wait. The copy, to the process and back, is the same: it is here.
//!
//! A comment `Pitfall: NAME` marks a line that avoids a classic mistake. The small server
//! `pitfalls/src/bin/NAME.rs` makes that mistake.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use log::{info, trace};

/// Size of the read buffer in bytes, and so the most output that a connection can have pending.
///
/// Large enough that a bulk transfer needs few system calls; small enough that a step is short.
pub const BUFFER_SIZE: usize = 64 * 1024;

/// The result of one [`Connection::step`]: what happened, and what to wait for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The connection wrote back this many bytes. There may be more to read.
    Echoed(usize),
    /// There was nothing to read. Wait until the socket is readable.
    WantRead,
    /// The socket did not take all pending output. Wait until it is writable.
    WantWrite,
    /// The peer has finished, or the connection has failed. Drop the connection.
    Closed,
}

/// An echo connection on a non-blocking socket.
///
/// It reads only when it has no pending output. This rule gives three guarantees:
/// - Backpressure: if a client stops reading, its socket buffers fill up, output stays pending, and
///   the server stops reading from that client.
/// - Bounded memory: pending output is at most what one read returned.
/// - Half-close: when `read` returns EOF, everything before it has been written to the socket.
///   close(2) does not discard that.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Bytes that were read but not yet written, because the send buffer was full.
    /// Uses no memory while it is empty.
    pending: Vec<u8>,
    /// How many bytes of `pending` have been written since.
    offset: usize,
}

impl Connection {
    /// Takes ownership of `stream` and makes it non-blocking.
    ///
    /// It must be non-blocking although the server waits for readiness first: select(2), "BUGS", lists
    /// cases in which a socket is reported as readable and `read` then blocks.
    /// Pitfalls: blocking-behind-select, blocking-socket-drained
    ///
    /// # Errors
    /// The error of `ioctl(FIONBIO)`, which does not fail for an open file descriptor.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, peer, pending: Vec::new(), offset: 0 })
    }

    /// Writes pending output. If none is left, reads once into `buffer` and writes that back.
    ///
    /// Never blocks. `buffer` must not be empty. All connections can share it: no data stays in it.
    pub fn step(&mut self, buffer: &mut [u8]) -> Progress {
        let result = self.try_step(buffer);
        match &result {
            Ok(Progress::Closed) => info!("{} disconnected", self.peer),
            Ok(_) => {}
            // A reset (ECONNRESET, EPIPE), a timeout or a lost route ends this connection only.
            // std sends with MSG_NOSIGNAL, so EPIPE comes without the signal SIGPIPE.
            // Pitfalls: peer-error-ends, sigpipe-deadly
            Err(error) => info!("{} disconnected: {error}", self.peer),
        }
        result.unwrap_or(Progress::Closed)
    }

    fn try_step(&mut self, buffer: &mut [u8]) -> io::Result<Progress> {
        if self.has_pending_output() {
            // `+=`, because this write can be short too. Pitfall: wrong-offset
            self.offset += write(&self.stream, &self.pending[self.offset..])?;
            if self.offset < self.pending.len() {
                return Ok(Progress::WantWrite); // no read. Pitfall: reads-with-pending-output
            }
            self.pending = Vec::new(); // frees the memory; `clear` would keep it
            self.offset = 0;
        }

        let Some(count) = read(&self.stream, buffer)? else {
            return Ok(Progress::WantRead);
        };
        if count == 0 {
            // EOF. No output is pending here, so the connection can be closed.
            // Pitfalls: hangup-closes, pending-output-dropped-at-eof
            return Ok(Progress::Closed);
        }

        let written = write(&self.stream, &buffer[..count])?;
        if written < count {
            // A short write is not an error. The send buffer of the socket is full.
            // Pitfalls: write-ignored, short-write-fatal
            self.pending = buffer[written..count].to_vec();
            return Ok(Progress::WantWrite);
        }
        Ok(Progress::Echoed(count))
    }

    /// Returns whether the connection must write before it may read again.
    #[must_use]
    pub fn has_pending_output(&self) -> bool {
        !self.pending.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Reads once from a non-blocking socket (recv(2)).
///
/// Returns `None` if there is nothing to read yet (EAGAIN), and `Some(0)` at EOF. The call does not
/// sleep, so it cannot fail with EINTR.
///
/// # Errors
/// The connection has failed.
pub fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let fd = stream.as_raw_fd();
    match stream.read(buffer) {
        Ok(count) => {
            trace!("copy: read({fd}) = {count}");
            Ok(Some(count))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            trace!("copy: read({fd}) = EAGAIN");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes once to a non-blocking socket (send(2)).
///
/// Returns the number of bytes that the socket took. Fewer than `bytes.len()` means that the send
/// buffer is full now, and 0 that it was full before (EAGAIN).
///
/// # Errors
/// The connection has failed.
pub fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let fd = stream.as_raw_fd();
    match stream.write(bytes) {
        Ok(count) => {
            trace!("copy: write({fd}) = {count} of {}", bytes.len());
            Ok(count)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            trace!("copy: write({fd}) = EAGAIN");
            Ok(0)
        }
        Err(error) => Err(error),
    }
}
