//! A connection whose reads and writes somebody else completes: for `proactor-chat-uring`, the kernel.
//!
//! Until an operation has completed, its buffers and its file descriptor belong to the kernel. So the
//! connection keeps them, does not change them, and is not dropped.

use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use common::chat::{Output, READ_SIZE, has_unread_input};
use libc::iovec;
use log::trace;

use crate::log_disconnected;

/// A connection and its operations in flight.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    peer: SocketAddr,
    /// A read is in flight, and uses the buffer. Otherwise, a worker has the buffer. A client has one
    /// read in progress, so its lines stay in order.
    reading: bool,
    buffer: Vec<u8>,
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
            buffer: Vec::new(),
            reading: false,
            output: Output::default(),
            blocks: Vec::new(),
            in_flight: 0,
            closed: false,
        }
    }

    /// Starts a read into `buffer`, which has a capacity of [`READ_SIZE`]. Returns where its memory is.
    pub fn start_read(&mut self, buffer: Vec<u8>) -> *mut u8 {
        debug_assert!(!self.reading && buffer.capacity() >= READ_SIZE);
        self.reading = true;
        self.in_flight += 1;
        self.buffer = buffer;
        self.buffer.as_mut_ptr()
    }

    /// The read has completed. Returns its buffer, with the bytes.
    pub fn complete_read(&mut self, result: &io::Result<usize>) -> Vec<u8> {
        self.reading = false;
        self.in_flight -= 1;
        let mut buffer = mem::take(&mut self.buffer);
        if let Ok(count) = result {
            trace!("copy: recv({}) = {count}", self.stream.as_raw_fd());
            // SAFETY: the kernel has written this many bytes into this buffer.
            unsafe { buffer.set_len(*count) };
        }
        buffer
    }

    /// Returns whether the peer has reset the connection, after a read has returned 0. The kernel
    /// reports the error once. If the write in flight gets it, the read returns 0 as it does at EOF.
    #[must_use]
    pub fn was_reset(&self) -> bool {
        self.is_in_flight() && self.stream.peer_addr().is_err()
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
            let (fd, length) = (self.stream.as_raw_fd(), self.output.len());
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

    /// Returns whether the connection waits for its operations in order to be dropped.
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
