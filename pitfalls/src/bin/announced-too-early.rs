//! Mistake: the server announces that it listens while steps that can fail are still to come.
//!
//! Symptom: a script or a supervisor waits for that line, sends requests, and finds that the server
//! has exited.
//!
//! Rule: the program that starts a server takes the line as a promise that the server serves.
//! (Other promises are `sd_notify(3)`, and the exit of the parent of a daemon that forks.) So
//! announce the server last.
//!
//! Reproduce:
//! 1. `cargo build -p pitfalls`
//! 2. `(ulimit -n 4; target/debug/announced-too-early)` prints that the server listens, and then
//!    that `epoll_create1` has failed.
//!
//! Correct: `main` in `epoll-echo/src/main.rs` calls `announce` last.

use std::process::ExitCode;

use anyhow::Context;
use common::{BUFFER_SIZE, Connection, ECHO_ADDR, announce, exit_on_stop, listen, run};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollFlags};
use pitfalls::{echo_step, epoll_loop};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        announce(listener.local_addr()?); // <- the mistake
        listener.set_nonblocking(true)?;
        exit_on_stop()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN;
        epoll_loop(&listener, &epoll, interest, Connection::new, |epoll, connection, _| {
            echo_step(epoll, connection, &mut buffer)
        })
    })
}
