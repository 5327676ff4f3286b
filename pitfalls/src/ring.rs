//! `io_uring` for one client, for the pitfalls that are about it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};

/// The number of provided buffers.
const BUFFERS: u16 = 4;
/// Size of a provided buffer in bytes.
const BUFFER_SIZE: usize = 16 * 1024;
/// The group of the provided buffers. A receive names the group, and the kernel picks a buffer.
const GROUP: u16 = 0;

// The user data of the operations.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const PROVIDE: u64 = 2;

/// What is complete.
#[derive(Debug)]
pub enum Completion {
    /// The receive returned bytes, or failed.
    Received {
        /// A copy of the bytes. Empty at EOF.
        result: io::Result<Vec<u8>>,
        /// The number of the provided buffer that the receive took, if any.
        buffer: Option<u16>,
        /// Whether the receive continues (`IORING_CQE_F_MORE`).
        more: bool,
    },
    /// All bytes were sent, or the send failed.
    Sent(io::Result<()>),
}

/// A ring with the socket of one client, `BUFFERS` provided buffers, and the output in flight.
pub struct ClientRing {
    stream: TcpStream,
    ring: IoUring,
    buffers: Vec<u8>,
    output: Vec<u8>,
    /// How many bytes of `output` were sent.
    offset: usize,
    /// Operations that were queued and are not complete. The kernel can use their memory.
    in_flight: usize,
}

impl ClientRing {
    /// Creates a ring for a client, with all buffers provided.
    ///
    /// # Errors
    /// The kernel refuses `io_uring`.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let mut ring = Self {
            stream,
            ring: IoUring::new(16)?,
            buffers: vec![0; usize::from(BUFFERS) * BUFFER_SIZE],
            output: Vec::new(),
            offset: 0,
            in_flight: 0,
        };
        for number in 0..BUFFERS {
            ring.provide(number)?;
        }
        Ok(ring)
    }

    /// Starts a multishot receive, which completes each time that data arrives.
    ///
    /// # Errors
    /// The call of `io_uring_enter` fails.
    pub fn receive(&mut self) -> io::Result<()> {
        let fd = Fd(self.stream.as_raw_fd());
        self.push(RECEIVE, opcode::RecvMulti::new(fd, GROUP).build())
    }

    /// Sends all of `bytes`. The send before it has to be complete.
    ///
    /// # Errors
    /// The call of `io_uring_enter` fails.
    pub fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.output = bytes;
        self.offset = 0;
        self.send_rest()
    }

    fn send_rest(&mut self) -> io::Result<()> {
        let fd = Fd(self.stream.as_raw_fd());
        let rest = &self.output[self.offset..];
        self.push(SEND, opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32).build())
    }

    /// Provides the buffer with this number to the kernel, for the next receives.
    ///
    /// # Errors
    /// The call of `io_uring_enter` fails.
    pub fn provide(&mut self, number: u16) -> io::Result<()> {
        let start = usize::from(number) * BUFFER_SIZE;
        let buffer = self.buffers[start..start + BUFFER_SIZE].as_mut_ptr();
        let size = BUFFER_SIZE as i32;
        self.push(PROVIDE, opcode::ProvideBuffers::new(buffer, size, 1, GROUP, number).build())
    }

    fn push(&mut self, kind: u64, operation: squeue::Entry) -> io::Result<()> {
        let operation = operation.user_data(kind);
        // SAFETY: the memory belongs to `self`, which frees it when no operation is in flight.
        while unsafe { self.ring.submission().push(&operation) }.is_err() {
            self.ring.submit()?; // the submission queue is full
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Submits what is queued, waits, and returns what is complete.
    ///
    /// # Errors
    /// The call of `io_uring_enter` fails.
    pub fn wait(&mut self) -> io::Result<Vec<Completion>> {
        match self.ring.submit_and_wait(1) {
            Err(error) if !is_interrupted(&error) => return Err(error),
            _ => {}
        }
        let mut completions = Vec::new();
        for entry in self.ring.completion().collect::<Vec<_>>() {
            let more = cqueue::more(entry.flags());
            self.in_flight -= usize::from(!more);
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            match (entry.user_data(), result) {
                // SIGSTOP interrupts a kernel thread that waits for the socket: once more.
                (RECEIVE, Err(error)) if is_interrupted(&error) && !more => self.receive()?,
                (SEND, Err(error)) if is_interrupted(&error) => self.send_rest()?,
                (RECEIVE, result) => {
                    let buffer = cqueue::buffer_select(entry.flags());
                    let start = usize::from(buffer.unwrap_or(0)) * BUFFER_SIZE;
                    let result = result.map(|count| self.buffers[start..start + count].to_vec());
                    completions.push(Completion::Received { result, buffer, more });
                }
                (SEND, Ok(count)) if self.offset + count < self.output.len() => {
                    self.offset += count;
                    self.send_rest()?;
                }
                (SEND, result) => completions.push(Completion::Sent(result.map(drop))),
                _ => {}
            }
        }
        Ok(completions)
    }
}

fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

impl Drop for ClientRing {
    fn drop(&mut self) {
        // Completes the receive and the send. The memory is freed after that.
        let _ = self.stream.shutdown(Shutdown::Both);
        while self.in_flight > 0 {
            if self.wait().is_err() {
                // The kernel may still use the memory.
                std::mem::forget(std::mem::take(&mut self.buffers));
                std::mem::forget(std::mem::take(&mut self.output));
                return;
            }
        }
    }
}
