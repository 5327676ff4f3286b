//! The copy: the second phase of an input operation, on a socket that does not block.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use log::{info, trace};

/// Bytes read at once, and so the most that a connection can owe its peer.
///
/// Large enough that a bulk transfer takes few system calls, and small enough that one step of one
/// connection does not keep the others waiting.
pub const BUFFER: usize = 64 * 1024;

/// What a connection waits for after a step of the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// So many bytes went from the peer and back to it, and there may be more to read already.
    More(usize),
    /// There was nothing to read: wait until the socket is readable.
    Read,
    /// The peer does not take what it is owed: wait until the socket is writable.
    Write,
    /// Nothing: the peer is done, or lost. Drop the connection.
    Close,
}

/// An echo connection on a non-blocking socket.
///
/// It reads only when it owes nothing. That one rule is the backpressure (a peer that does not
/// read is not read from), the bound on memory (what one read brought), and the half-close (the
/// end of the input is only seen when everything before it has been delivered).
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// What a read brought and the socket would not take; no memory while the peer keeps up.
    owed: Vec<u8>,
    /// How much of `owed` has been sent since.
    sent: usize,
}

impl Connection {
    /// Makes `stream` non-blocking.
    ///
    /// # Errors
    /// None in practice: `ioctl(2)` fails for what is not a socket.
    pub fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, peer, owed: Vec::new(), sent: 0 })
    }

    /// Takes one step of the copy: sends what is owed; then, if that is all gone, reads once
    /// into `buffer` and writes once from it. It never blocks.
    ///
    /// `buffer` can be shared by all connections: nothing stays in it between two steps.
    pub fn go_on(&mut self, buffer: &mut [u8]) -> Next {
        let next = self.copy(buffer);
        match &next {
            Ok(Next::Close) => info!("{} left", self.peer),
            Ok(_) => {}
            // A reset (`ECONNRESET`, `EPIPE`), a time-out, a lost route: of this peer only.
            // Pitfalls: peer-error-ends, sigpipe-deadly
            Err(error) => info!("{} left: {error}", self.peer),
        }
        next.unwrap_or(Next::Close)
    }

    fn copy(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        if self.owes() {
            self.sent += write(&self.stream, &self.owed[self.sent..])?; // Pitfall: wrong-offset
            if self.sent < self.owed.len() {
                return Ok(Next::Write);
            }
            self.owed = Vec::new();
            self.sent = 0;
        }
        // Nothing is owed from here on. Pitfalls: reads-while-owing, owed-dropped-at-eof
        let Some(count) = read(&self.stream, buffer)? else {
            return Ok(Next::Read);
        };
        if count == 0 {
            // The end of the input, and all before it is delivered. Pitfall: hangup-closes
            return Ok(Next::Close);
        }
        let sent = write(&self.stream, &buffer[..count])?; // Pitfall: two-small-writes
        if sent < count {
            // Pitfalls: write-ignored, short-write-fatal
            self.owed = buffer[sent..count].to_vec();
            return Ok(Next::Write);
        }
        Ok(Next::More(count))
    }

    /// Whether it waits to write, and not to read.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

// Neither call can fail with `EINTR`: it never sleeps, so no signal finds it sleeping.

/// Reads once; `None` where there is nothing to read yet, 0 at the end of the input.
///
/// # Errors
/// The connection is lost.
pub fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(count) => {
            trace!("copy: read({}) = {count}", stream.as_raw_fd());
            Ok(Some(count))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            trace!("copy: read({}): nothing there", stream.as_raw_fd());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes once, as much as the socket takes, which may be nothing.
///
/// # Errors
/// The connection is lost.
pub fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let count = match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        result => result?,
    };
    trace!("copy: write({}) = {count} of {}", stream.as_raw_fd(), bytes.len());
    Ok(count)
}
