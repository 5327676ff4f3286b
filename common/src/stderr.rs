//! A stderr that never blocks the process that logs.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Linux reports a pipe as writable only if at least one page of 4096 bytes is free in it.
const MAX_LINE: usize = 4096;

/// Writes a line to stderr if stderr is writable now, and otherwise drops the line and counts it.
///
/// A write to a full pipe blocks, and so does a write to a terminal after Ctrl-S. So each write asks
/// poll(2) first. `O_NONBLOCK` is no solution, because the flag belongs to the open file description,
/// which other processes share. One gap is left: if another process fills the pipe between `poll` and
/// `write`, the write blocks.
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
        text.extend_from_slice(line);
        if text.len() > MAX_LINE {
            text.truncate(MAX_LINE - 1);
            text.push(b'\n');
        }
        let _ = stderr.lock().write_all(&text); // a closed stderr is not an error of the server
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
