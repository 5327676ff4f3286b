//! Mistake: the server ignores the count that `write` returns.
//!
//! Symptom: small messages work. A large message comes back with parts missing if the client reads
//! more slowly than it sends.
//!
//! Rule: write(2) on a non-blocking socket takes what fits into the send buffer and returns that
//! count. The caller has to keep the rest and write it when the socket is writable again.
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin write-ignored`
//! 2. In a second terminal:
//!    `head -c 20M /dev/zero | (nc -N 127.0.0.1 7000; true) | (sleep 2; wc -c)` prints a number
//!    below 20971520.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs` keeps the rest in `pending`, and
//! reads again only when that is written.

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
            let _ = write(stream, &buffer[..count]); // <- the mistake
            Ok(count > 0)
        })
    })
}
