//! Mistake: the server always waits for EPOLLOUT too, with and without pending output.
//!
//! Symptom: the server works, but it uses a full core from the first client on, even if all clients
//! are idle.
//!
//! Rule: a socket is writable while its send buffer has room, which is almost always. With
//! level-triggered epoll, each `epoll_wait` then returns at once.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin writable-left-armed`
//! 2. In a second terminal: `nc 127.0.0.1 7000`
//! 3. In a third terminal: `top`. The server uses 100 % of a core.
//!
//! Correct: `on_ready` in `epoll-echo/src/main.rs` watches EPOLLOUT only while output is pending.

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
