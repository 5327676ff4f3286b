//! A stderr that never blocks the process that logs.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most bytes that the kernel promises to take when poll(2) reports a pipe as writable
/// (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

/// Writes to stderr as long as somebody reads it, and drops lines otherwise.
///
/// A write to a full pipe blocks, and so does a write to a terminal after Ctrl-S. A server must not
/// depend on who reads its log. Making stderr non-blocking is no solution, because the flag belongs
/// to the open file description, which other processes share. So each write asks poll(2) first.
/// (Another process that writes to the same pipe between the two calls can still make the write
/// block. A lock keeps the threads of this process apart.) Pitfall: log-blocks-server
#[derive(Default)]
pub struct NonBlockingStderr {
    /// Lines dropped since the last one that was written.
    dropped: u64,
}

impl Write for NonBlockingStderr {
    /// Writes one log line. Lines longer than [`MAX_LINE`] are cut.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !is_writable(&io::stderr()) {
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
        // A closed stderr is not an error of the server.
        let _ = io::stderr().write_all(&text);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_writable(file: &impl AsFd) -> bool {
    let mut entry = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut entry, PollTimeout::ZERO);
    ready == Ok(1) && entry[0].revents() == Some(PollFlags::POLLOUT)
}
