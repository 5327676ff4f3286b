//! A connection whose reads and writes somebody else completes: for `proactor-chat-uring`, the kernel.
//!
//! Until an operation has completed, its memory and its file descriptor belong to the kernel. So the
//! connection keeps them, does not change them, and is not dropped.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use common::chat::{Input, Output, has_unread_input};
use libc::iovec;
use log::trace;

use crate::log_disconnected;

/// A connection and its operations in flight.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    peer: SocketAddr,
    /// A receive is in flight. Otherwise, a worker has what was read. A client has one read in
    /// progress, so its lines stay in order.
    reading: bool,
    /// Output taken from the room.
    pub output: Output,
    /// Where the blocks of the output are in memory, for the write in flight.
    blocks: Vec<iovec>,
    /// Operations that have not completed.
    in_flight: usize,
    closed: bool,
}

impl Connection {
    /// Makes a connection without operations.
    #[must_use]
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self {
            stream,
            peer,
            reading: false,
            output: Output::default(),
            blocks: Vec::new(),
            in_flight: 0,
            closed: false,
        }
    }

    /// Starts a receive. Returns the socket that it is for.
    pub fn start_read(&mut self) -> RawFd {
        debug_assert!(!self.reading);
        self.reading = true;
        self.in_flight += 1;
        self.stream.as_raw_fd()
    }

    /// The receive has completed, and has received `bytes`.
    ///
    /// # Errors
    /// It has failed, or the peer has reset the connection.
    pub fn complete_read(
        &mut self,
        result: io::Result<usize>,
        bytes: Vec<u8>,
    ) -> io::Result<Input> {
        self.reading = false;
        self.in_flight -= 1;
        let count = result?;
        trace!("copy: recv({}) = {count}", self.stream.as_raw_fd());
        if count > 0 {
            return Ok(Input::Bytes(bytes));
        }
        // The kernel reports a reset once. If the write in flight gets the error, the receive returns
        // 0 as it does at EOF. But a reset connection has no peer any more.
        let was_reset = self.is_in_flight() && self.stream.peer_addr().is_err();
        if was_reset { Err(ErrorKind::ConnectionReset.into()) } else { Ok(Input::Fin) }
    }

    /// Starts a write of the output. Returns where its blocks are.
    pub fn start_write(&mut self) -> &[iovec] {
        self.in_flight += 1;
        self.blocks = self.output.iovecs();
        &self.blocks
    }

    /// The write has completed. Removes from the output what was written.
    pub fn complete_write(&mut self, result: &io::Result<usize>) {
        self.in_flight -= 1;
        self.blocks = Vec::new();
        if let Ok(count) = result {
            let fd = self.stream.as_raw_fd();
            let length = self.output.len();
            trace!("copy: writev({fd}) = {count} of {length}");
            self.output.advance(*count);
        }
    }

    /// Ends what is in flight. The connection must be dropped only when that has completed.
    pub fn close(&mut self, error: Option<&io::Error>) {
        if !self.closed {
            self.closed = true;
            log_disconnected(self.peer, error);
            // It fails if the peer has reset the connection. Then nothing stays in flight.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Returns whether the connection has been shut down. It is dropped when its operations have
    /// completed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether an operation has not completed.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Returns whether input has arrived that the workers do not have.
    #[must_use]
    pub fn has_unread_input(&self) -> bool {
        !self.reading || has_unread_input(&self.stream)
    }
}
