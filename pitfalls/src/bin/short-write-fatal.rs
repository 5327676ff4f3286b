//! Mistake: the server treats a short write as an error and closes the connection.
//!
//! Symptom: a client that reads more slowly than it sends loses its connection, and the data that
//! was not echoed yet.
//!
//! Rule: write(2) on a non-blocking socket takes what fits into the send buffer and returns that
//! count. This is success. If nothing fits, it fails with EAGAIN, which is not an error of the
//! connection either.
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin short-write-fatal`
//! 2. In a second terminal:
//!    `head -c 20M /dev/zero | (nc -N 127.0.0.1 7000; true) | (sleep 2; wc -c)` prints a number
//!    below 20971520.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs` keeps the rest as pending output.

use std::net::TcpStream;
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, read, run, write};
use nix::sys::epoll::EpollFlags;
use pitfalls::epoll;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(stream);
        epoll(&addr, EpollFlags::EPOLLIN, new, |_, stream: &mut TcpStream, _| {
            let Some(count) = read(stream, &mut buffer)? else { return Ok(true) };
            if count == 0 {
                return Ok(false); // EOF
            }
            let written = write(stream, &buffer[..count])?;
            Ok(written == count) // <- the mistake: `false` closes the connection
        })
    })
}
