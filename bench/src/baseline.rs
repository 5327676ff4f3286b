//! What the floors share: the barest system calls that make an echo server.
//!
//! A floor is what a model costs at the least on this machine: no accounting, no log, no bound
//! on anything, and a peer that does not read stops it. It is there to be compared with, never
//! to be copied.

use std::env;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, RawFd};

/// Bytes read at once, as in the servers that are compared with a floor.
pub const BUFFER: usize = 64 * 1024;

/// Listens on the address that is the first argument, and says so in one line on stdout.
///
/// # Errors
/// An address that cannot be bound.
pub fn listen(name: &str) -> io::Result<TcpListener> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = TcpListener::bind(addr)?;
    writeln!(io::stdout(), "{name} listening on {}", listener.local_addr()?)?;
    Ok(listener)
}

/// Accepts a connection; it blocks.
///
/// # Errors
/// Whatever `accept(2)` says.
pub fn accept(listener: &TcpListener) -> io::Result<RawFd> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream.into_raw_fd())
}

/// One read and one write; false when the peer has left, and then the descriptor is closed.
pub fn copy(fd: RawFd, buffer: &mut [u8]) -> bool {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into it.
    let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if count > 0 {
        // SAFETY: the first `count` bytes of `buffer` are what was read.
        let sent = unsafe { libc::write(fd, buffer.as_ptr().cast(), count as usize) };
        if sent == count {
            return true;
        }
    }
    // SAFETY: `fd` comes from `accept`, and nobody uses it after this returned false.
    unsafe { libc::close(fd) };
    false
}
