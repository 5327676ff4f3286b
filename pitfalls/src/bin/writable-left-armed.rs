//! Mistake: the wait is always for writability too, owed or not.
//!
//! Seen: it works, and uses all of a core from the first client on, even when nobody talks.
//!
//! Rule: a socket is writable whenever its send buffer has room, which is nearly always;
//! level-triggered, each `epoll_wait` returns at once to say so.
//!
//! Show: `cargo run -p pitfalls --bin writable-left-armed`, then `nc 127.0.0.1 7000` and `top`.
//!
//! Right: `Server::go_on` in `epoll-echo/src/main.rs`: interest in `EPOLLOUT` while something
//! is owed, and not longer.

use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::epoll;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT; // <- the mistake
        epoll(&addr, interest, Connection::new, |_, connection, _| {
            Ok(connection.step(&mut buffer) != Progress::Closed)
        })
    })
}
