//! The lines on their way to one client, and the system call that writes them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem::{self, MaybeUninit};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use log::trace;
use socket2::SockRef;

use crate::connection::write;

/// The most blocks that one writev(2) takes (`IOV_MAX`).
const MAX_BLOCKS: usize = 1024;
/// If the blocks average fewer bytes than this, they are copied into one: cheaper than a long iovec
/// list. (Measured: with blocks of 41 bytes, writev(2) takes 1.3 times the CPU time of copy and
/// write(2). With blocks of 656 bytes, both take the same.)
const SMALL_BLOCK: usize = 512;
/// Capacity kept when the queue is empty.
const KEPT_CAPACITY: usize = 16;

/// Blocks of lines, in order. A line that goes to 1000 clients is one block in memory, which all of
/// them share.
#[derive(Debug, Default)]
pub struct Output {
    blocks: VecDeque<Arc<[u8]>>,
    /// How many bytes of the first block have been written.
    offset: usize,
}

impl Output {
    /// Returns whether all of it has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Returns the number of bytes that have not been written.
    #[must_use]
    pub fn len(&self) -> usize {
        let total: usize = self.blocks.iter().map(|block| block.len()).sum();
        total - self.offset
    }

    /// Returns the next blocks that have not been written: as many as one writev(2) can take.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        let offset = self.offset;
        self.blocks
            .iter()
            .take(MAX_BLOCKS)
            .enumerate()
            .map(move |(index, block)| if index == 0 { &block[offset..] } else { block })
    }

    /// Returns where these blocks are in memory, for an operation that the kernel completes later.
    /// The result is valid until this output is changed.
    #[must_use]
    pub fn iovecs(&self) -> Vec<libc::iovec> {
        let iovec = |block: &[u8]| libc::iovec {
            iov_base: block.as_ptr().cast_mut().cast(), // a write does not change what is there
            iov_len: block.len(),
        };
        self.blocks().map(iovec).collect()
    }

    /// Removes the first `written` bytes.
    pub fn advance(&mut self, written: usize) {
        self.offset += written;
        while let Some(block) = self.blocks.front() {
            if self.offset < block.len() {
                return;
            }
            self.offset -= block.len();
            self.blocks.pop_front();
        }
        self.blocks.shrink_to(KEPT_CAPACITY); // a queue that was long does not keep its memory
    }

    pub(super) fn push(&mut self, block: Arc<[u8]>) {
        self.blocks.push_back(block);
    }

    /// Moves all blocks of `queue` to the end of this output.
    pub(super) fn append(&mut self, queue: &mut Self) {
        if self.is_empty() {
            mem::swap(self, queue); // no block is moved, and no memory allocated
        } else {
            self.blocks.append(&mut queue.blocks);
        }
    }
}

/// Writes `output` to a non-blocking socket until it is empty or the socket is full, and removes
/// from it what was written. Returns the number of bytes.
///
/// # Errors
/// The connection has failed.
pub fn write_output(stream: &TcpStream, output: &mut Output) -> io::Result<usize> {
    let mut written = 0;
    while !output.is_empty() {
        let blocks: Vec<_> = output.blocks().map(IoSlice::new).collect();
        let length: usize = blocks.iter().map(|block| block.len()).sum();
        let count = match &blocks[..] {
            [block] => write(stream, block)?,
            blocks if length < SMALL_BLOCK * blocks.len() => {
                write(stream, &concatenate(blocks, length))?
            }
            blocks => write_vectored(stream, blocks, length)?,
        };
        output.advance(count);
        written += count;
        // A short count does not end the loop. One more call, until EAGAIN, is simpler: it needs no
        // argument about what a short count means to edge-triggered epoll.
        if count == 0 {
            break;
        }
    }
    Ok(written)
}

/// Copies `blocks`, `length` bytes in total, into one.
fn concatenate(blocks: &[IoSlice<'_>], length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    for block in blocks {
        bytes.extend_from_slice(block);
    }
    bytes
}

/// Does the same as [`write()`] for several blocks, with writev(2). `length` is the sum of their
/// lengths.
fn write_vectored(
    mut stream: &TcpStream,
    blocks: &[IoSlice<'_>],
    length: usize,
) -> io::Result<usize> {
    let fd = stream.as_raw_fd();
    match stream.write_vectored(blocks) {
        Ok(count) => {
            trace!("copy: writev({fd}) = {count} of {length}");
            Ok(count)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            trace!("copy: writev({fd}) = EAGAIN");
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

/// Sends FIN to the peer, after everything that has been written. The peer can still send.
pub fn shut_down_writing(stream: &TcpStream) {
    // It fails if the peer has reset the connection. The next read reports that too.
    let _ = stream.shutdown(Shutdown::Write);
}

/// Returns whether a read would return at once: with data, EOF or an error. The socket may be
/// blocking.
///
/// Data stays in the socket, but an error does not: the kernel reports a reset (ECONNRESET) once,
/// and the peek takes it. The next read then returns 0, so the server handles the reset as EOF.
#[must_use]
pub fn has_unread_input(stream: &TcpStream) -> bool {
    let peek = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    match SockRef::from(stream).recv_with_flags(&mut [MaybeUninit::uninit()], peek) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
