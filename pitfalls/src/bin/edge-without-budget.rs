//! Mistake: with edge-triggered epoll, the server reads each socket until EAGAIN, without a limit.
//!
//! Symptom: while one client sends without a pause, no other client is served.
//!
//! Rule: with EPOLLET, a server has to read until EAGAIN. If the peer sends as fast as the server
//! reads, EAGAIN never comes. So stop after a number of steps, remember the connection, and
//! continue with it in the next iteration.
//!
//! Reproduce: `cargo test edge_without_budget`. It needs a client that sends and receives in two
//! threads and is faster than the server. `nc` is not.
//!
//! Correct: `MAX_STEPS` and `ready` in `epoll-echo/src/bin/epoll-echo-edge.rs`.

use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::epoll;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll(&addr, interest, Connection::new, |_, connection, _| {
            loop {
                // <- the mistake: nothing limits this loop
                match connection.step(&mut buffer) {
                    Progress::Echoed(_) => {}
                    Progress::WantRead | Progress::WantWrite => return Ok(true),
                    Progress::Closed => return Ok(false),
                }
            }
        })
    })
}
