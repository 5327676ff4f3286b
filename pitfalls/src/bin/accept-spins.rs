//! Mistake: after `accept` failed with EMFILE, the server waits for the listener as before.
//!
//! Symptom: when the process is out of file descriptors, it uses a full core, and its clients are
//! served more slowly.
//!
//! Rule: a listener is readable while a connection is in its queue. An accept(2) that fails with
//! EMFILE takes nothing from the queue. So the listener stays readable, and the next `poll` returns
//! at once.
//!
//! Reproduce:
//! 1. `cargo build -p pitfalls`
//! 2. `(ulimit -n 20; cargo run -p pitfalls --bin accept-spins)`
//! 3. In a second terminal: `for i in $(seq 30); do (sleep 60 | nc 127.0.0.1 7000 &) done; top`.
//!    The server uses 100 % of a core.
//!
//! Correct: `set_accept_paused` in `epoll-echo/src/main.rs` stops watching the listener until a
//! connection closes or `ACCEPT_RETRY` has passed.

use std::os::fd::AsFd;
use std::process::ExitCode;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pitfalls::spawn_echo;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            let mut watched = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            // If it fails with EINTR, `accept` returns `WouldBlock`.
            let _ = poll(&mut watched, PollTimeout::NONE);
            match accept(&listener) {
                Accepted::Connection(stream, peer) => spawn_echo(stream, peer),
                Accepted::WouldBlock | Accepted::Pause => {} // <- the mistake: `Pause` needs a wait
            }
        }
    })
}
