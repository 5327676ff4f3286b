//! A stderr that does not block the process that logs, except in rare cases.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most bytes of one write: Linux reports a pipe as writable only if a page of 4096 bytes is
/// free.
const MAX_LINE: usize = 4096;

/// Writes a line to stderr if stderr is writable now, and otherwise drops the line and counts it.
///
/// A write to a full pipe blocks, and so does a write to a terminal after Ctrl-S. So each write
/// calls poll(2) first. (`O_NONBLOCK` would also change the stderr of the processes that share it.)
/// Two gaps are left: another process may fill the pipe between `poll` and `write`, and a terminal
/// can be writable with less room than a line needs. Pitfall: log-blocks-server
#[derive(Default)]
pub struct NonBlockingStderr {
    dropped: u64,
}

impl Write for NonBlockingStderr {
    /// Writes one log line. Lines longer than [`MAX_LINE`] are cut.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut entry = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let _ = poll(&mut entry, PollTimeout::ZERO); // if it fails, the entry is unchanged
        if entry[0].revents() != Some(PollFlags::POLLOUT) {
            self.dropped += 1;
            return Ok(line.len());
        }
        let mut text = Vec::with_capacity(line.len());
        if self.dropped > 0 {
            writeln!(text, "({} log lines were dropped: stderr was full)", self.dropped)?;
            self.dropped = 0;
        }
        text.extend_from_slice(line);
        if text.len() > MAX_LINE {
            text.truncate(MAX_LINE - 1);
            text.push(b'\n');
        }
        // It fails if the reader has closed the pipe since `poll`, which is no error of the server.
        let _ = stderr.lock().write_all(&text);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
