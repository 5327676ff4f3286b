//! Mistake: EINTR from `epoll_wait` is treated as an error.
//!
//! Symptom: the server exits when it is suspended and resumed (Ctrl-Z and `fg`), when a debugger
//! attaches to it, or when a signal arrives for which it has a handler.
//!
//! Rule: select(2), poll(2) and `epoll_wait(2)` fail with EINTR after a signal handler has run,
//! even if it was installed with `SA_RESTART`. `epoll_wait` also fails with EINTR after SIGSTOP and
//! SIGCONT, without any handler (signal(7)). EINTR means that the wait was interrupted, not that it
//! failed: wait again.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin eintr-fatal`
//! 2. Press Ctrl-Z, then enter `fg`. The server exits with EINTR.
//!
//! Correct: `serve` in `epoll-echo/src/main.rs` has an arm for `Errno::EINTR`. For a blocking read,
//! see `echo` in `blocking-echo/src/main.rs`.

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
        epoll.add(&listener, event(EpollFlags::EPOLLIN, 0))?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)?; // <- the mistake
            match accept(&listener) {
                Accepted::Connection(stream, peer) => spawn_echo(stream, peer),
                Accepted::WouldBlock => {}
                Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    })
}
