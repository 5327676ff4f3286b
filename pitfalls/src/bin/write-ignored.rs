//! Mistake: what `write` returns is not looked at.
//!
//! Seen: small messages work; a large one comes back with holes, where the client reads more
//! slowly than it sends.
//!
//! Rule: `write(2)` on a socket that does not block takes what there is room for, and says how
//! much that was. The rest is the caller's to keep, and to send when the socket is writable
//! again.
//!
//! Show: `cargo run -p pitfalls --bin write-ignored`, then `head -c 20M /dev/zero | (nc -N
//! 127.0.0.1 7000; true) | (sleep 2; wc -c)` counts fewer than 20971520.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: what the write left is `owed`, and
//! nothing is read before it is gone.

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
            let _ = stream.write(&buffer[..count]); // <- the mistake
            Ok(count > 0)
        })
    })
}
