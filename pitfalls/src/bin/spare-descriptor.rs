//! Mistake: after EMFILE the server closes a spare file descriptor, accepts one connection, closes
//! it, and reopens the spare. It repeats this until `accept` returns EAGAIN. But while no file
//! descriptor is free, `accept` never returns EAGAIN, so the loop uses a full core.
//!
//! Symptom: when the process is out of file descriptors, it uses a full core until a client leaves.
//! A server with one thread also stops serving its clients.
//!
//! Rule: accept(2) allocates the file descriptor before it looks at the queue. If the table of file
//! descriptors is full, it returns EMFILE even if the queue is empty, and never EAGAIN.
//!
//! Reproduce:
//! 1. `cargo build -p pitfalls`
//! 2. `(ulimit -n 20; cargo run -p pitfalls --bin spare-descriptor)`
//! 3. In a second terminal: `for i in $(seq 30); do (sleep 60 | nc 127.0.0.1 7000 &) done; top`.
//!    The server uses 100 % of a core.
//!
//! Correct: `accept_some` in `epoll-echo/src/main.rs` stops at the first such error. The clients in
//! the queue are served when there are file descriptors again.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pitfalls::spawn_echo;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let mut spare = File::open("/dev/null").ok();
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            let mut watched = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            // If it fails with EINTR, `accept` returns `WouldBlock`.
            let _ = poll(&mut watched, PollTimeout::NONE);
            loop {
                match accept(&listener) {
                    Accepted::Connection(stream, peer) => spawn_echo(stream, peer),
                    Accepted::WouldBlock => break, // <- the mistake: this is never returned
                    Accepted::Pause => {
                        drop(spare.take());
                        drop(accept(&listener));
                        spare = File::open("/dev/null").ok();
                    }
                }
            }
        }
    })
}
