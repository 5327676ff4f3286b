//! What the baselines share: the fewest system calls that make an echo server.
//!
//! A baseline shows what a model costs at least on this machine. It does no accounting, writes no
//! log, and limits nothing, and a client that does not read blocks it. It exists to be compared
//! with, not to be copied.

use std::env;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, RawFd};

/// Size of the read buffer, as in the servers that are compared with a baseline.
pub const BUFFER_SIZE: usize = 64 * 1024;

/// Listens on the address in the first argument, and announces that in one line on stdout.
///
/// # Errors
/// Fails if the address cannot be bound.
pub fn listen(name: &str) -> io::Result<TcpListener> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = TcpListener::bind(addr)?;
    writeln!(io::stdout(), "{name} listening on {}", listener.local_addr()?)?;
    Ok(listener)
}

/// Accepts a connection. Blocks until there is one.
///
/// # Errors
/// Returns any error of `accept(2)`.
pub fn accept(listener: &TcpListener) -> io::Result<RawFd> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream.into_raw_fd())
}

/// Reads once and writes once. Returns false if the client has disconnected; the file descriptor
/// is then closed.
pub fn copy(fd: RawFd, buffer: &mut [u8]) -> bool {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to the buffer.
    let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if count > 0 {
        // SAFETY: the first `count` bytes of the buffer are initialized.
        let sent = unsafe { libc::write(fd, buffer.as_ptr().cast(), count as usize) };
        if sent == count {
            return true;
        }
    }
    // SAFETY: `fd` is open. It comes from `accept`, and callers do not use it after false.
    unsafe { libc::close(fd) };
    false
}
