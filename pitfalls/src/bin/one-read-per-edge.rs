//! Mistake: edge-triggered, and one read of 2 KiB for each event.
//!
//! Seen: messages of up to 2 KiB work; of a larger one the first 2 KiB come back, and the rest
//! when the client sends something more, which it does not, as it waits for the rest.
//!
//! Rule: `EPOLLET` reports that something has come, once. What is left unread is not news: no
//! event will tell of it (epoll(7), "Level-triggered and edge-triggered").
//!
//! Show: `cargo run -p pitfalls --bin one-read-per-edge`, then `head -c 10000 /dev/zero |
//! timeout 2 nc 127.0.0.1 7000 | wc -c` counts 2048.
//!
//! Right: `Server::go_on` in `epoll-echo/src/bin/epoll-echo-edge.rs` copies until nothing is
//! left, and notes who has something left after so many steps.

use std::process::ExitCode;

use common::{Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::epoll;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; 2048];
        let news = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll(&addr, news, Connection::new, |_, connection, _| {
            Ok(connection.step(&mut buffer) != Progress::Closed) // <- the mistake: once
        })
    })
}
