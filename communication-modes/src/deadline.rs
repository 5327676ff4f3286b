//! One deadline over all reads and writes of a conversation.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::time::{Duration, Instant};

/// A TCP stream that fails with `TimedOut` once its deadline has passed. `S` is a reference, a
/// `Box` or an `Arc`.
///
/// The timeouts of a socket (`SO_RCVTIMEO`, `SO_SNDTIMEO`) apply to each system call separately. A
/// peer that sends one byte per second would keep a reader waiting for ever, even with a timeout of
/// two seconds.
#[derive(Debug)]
pub struct DeadlineStream<S> {
    stream: S,
    deadline: Instant,
}

impl<S: Deref<Target = TcpStream>> DeadlineStream<S> {
    /// Wraps `stream`, which must be blocking.
    #[must_use]
    pub fn new(stream: S, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    /// Replaces the deadline.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Returns the time until the deadline, as `set_read_timeout` takes it.
    fn time_left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

/// When a timeout of a socket expires, the kernel returns EAGAIN, "Resource temporarily
/// unavailable".
pub(crate) fn eagain_is_timeout(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

impl<S: Deref<Target = TcpStream>> Read for DeadlineStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.time_left()?)?;
        (&*self.stream).read(buffer).map_err(eagain_is_timeout)
    }
}

impl<S: Deref<Target = TcpStream>> Write for DeadlineStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.time_left()?)?;
        (&*self.stream).write(bytes).map_err(eagain_is_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
