//! A stderr that never blocks the process that logs.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most bytes that the kernel promises to take when poll(2) reports a pipe as writable
/// (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

/// Writes to stderr while somebody reads it, and otherwise drops lines and counts them.
///
/// A write to a full pipe blocks, and so does a write to a terminal after Ctrl-S. So each write asks
/// poll(2) first. (`O_NONBLOCK` is no solution: the flag belongs to the open file description, which
/// other processes share. If one of them fills the pipe between the two calls, the write blocks.)
/// Pitfall: log-blocks-server
#[derive(Default)]
pub struct NonBlockingStderr {
    dropped: u64,
}

impl Write for NonBlockingStderr {
    /// Writes one log line. Lines longer than [`MAX_LINE`] are cut.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut entry = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut entry, PollTimeout::ZERO) == Ok(1);
        if !ready || entry[0].revents() != Some(PollFlags::POLLOUT) {
            self.dropped += 1;
            return Ok(line.len());
        }
        let mut text = Vec::with_capacity(line.len());
        if self.dropped > 0 {
            writeln!(text, "({} lines of this log were dropped: nobody read it)", self.dropped)?;
            self.dropped = 0;
        }
        text.extend_from_slice(&line[..line.len().min(MAX_LINE - text.len())]);
        let _ = stderr.lock().write_all(&text); // a closed stderr is not an error of the server
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
