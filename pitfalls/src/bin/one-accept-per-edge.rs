//! Mistake: the listener is registered with edge-triggered epoll, and the server accepts one
//! connection per event.
//!
//! Symptom: when several clients connect at the same time, some of them wait until other clients
//! connect. The longer the server runs, the more clients wait.
//!
//! Rule: with EPOLLET, connections that arrive before the thread waits again are reported as one
//! event. What is left in the queue causes no further event. So accept until EAGAIN.
//!
//! Reproduce:
//! 1. Start `cargo run -p pitfalls --bin one-accept-per-edge`, and press Ctrl-Z to suspend it.
//! 2. In a second terminal:
//!    `for i in {1..5}; do (echo hello $i | timeout 5 nc 127.0.0.1 7000 &) done`
//! 3. In the first terminal: `fg`. Fewer than five clients get their reply.
//!
//! Correct: `accept_some` in `epoll-echo/src/bin/epoll-echo-edge.rs` repeats `accept`, and
//! remembers in `accept_again` that it stopped before EAGAIN.

use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use pitfalls::{ACCEPT_RETRY, event, spawn_echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, event(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            // If it fails with EINTR, `accept` finds nothing, or takes a connection that was left.
            let _ = epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE);
            let mut accepted = accept(&listener); // <- the mistake: once per event
            while matches!(accepted, Accepted::Pause) {
                thread::sleep(ACCEPT_RETRY);
                accepted = accept(&listener);
            }
            if let Accepted::Connection(stream, peer) = accepted {
                spawn_echo(stream, peer);
            }
        }
    })
}
