//! Mistake: with edge-triggered epoll, the server reads once per event.
//!
//! Symptom: messages of up to 2 KiB work. Of a larger message the first 2 KiB come back. The rest
//! comes back only when the client sends more, but the client is waiting for the rest.
//!
//! Rule: with EPOLLET, an event reports that data has arrived. Data that is left unread causes no
//! further event (epoll(7), "Level-triggered and edge-triggered"). So read until EAGAIN.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin one-read-per-edge`
//! 2. In a second terminal: `head -c 10000 /dev/zero | timeout 2 nc 127.0.0.1 7000 | wc -c` prints
//!    less than 10000, usually 2048.
//!
//! Correct: `Connection::echo` in `epoll-echo/src/bin/epoll-echo-edge.rs` reads and writes until
//! EAGAIN. After `MAX_STEPS` it continues in the next iteration.

use std::process::ExitCode;

use common::{Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::epoll;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; 2048];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll(&addr, interest, Connection::new, |_, connection, _| {
            Ok(connection.step(&mut buffer) != Progress::Closed) // <- the mistake: one step
        })
    })
}
