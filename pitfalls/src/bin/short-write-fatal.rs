//! Mistake: a short write is taken for an error, and ends the connection.
//!
//! Seen: a client that reads more slowly than it sends loses its connection, and what was under
//! way.
//!
//! Rule: a short count from `write(2)` on a socket that does not block is success: there was
//! room for so much. An error is -1, and the only one to expect, EAGAIN, means no room at all.
//!
//! Show: `cargo run -p pitfalls --bin short-write-fatal`, then `head -c 20M /dev/zero | (nc -N
//! 127.0.0.1 7000; true) | (sleep 2; wc -c)` counts fewer than 20971520.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: `if sent < count`, the rest is
//! owed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, unless_it_blocks};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(stream);
        epoll(&addr, EpollFlags::EPOLLIN, new, |_, stream: &mut TcpStream, _| {
            let Some(count) = unless_it_blocks(stream.read(&mut buffer))? else { return Ok(true) };
            let sent = unless_it_blocks(stream.write(&buffer[..count]))?;
            Ok(count > 0 && sent == Some(count)) // <- the mistake: else it is closed
        })
    })
}
