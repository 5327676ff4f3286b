//! Mistake: EINTR from the wait is taken for an error.
//!
//! Seen: the server ends when it is stopped and continued (Ctrl-Z and `fg`), attached to with a
//! debugger, or gets a signal that it handles.
//!
//! Rule: `epoll_wait(2)`, `select` and `poll` fail with EINTR when a handler has run,
//! `SA_RESTART` or not; `epoll_wait` even after SIGCONT without any handler (signal(7)). It
//! means: nothing has happened, wait again.
//!
//! Show: `cargo run -p pitfalls --bin eintr-fatal`, then Ctrl-Z and `fg`; or `pkill -STOP
//! eintr-fatal; pkill -CONT eintr-fatal`.
//!
//! Right: `Server::serve` in `epoll-echo/src/main.rs`: `Err(Errno::EINTR) => continue`; and for a
//! read that blocks, `echo` in `blocking-echo/src/main.rs`.

use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use pitfalls::event;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, event(EpollFlags::EPOLLIN, 0))?;
        loop {
            epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)?; // <- the mistake
            match accept(&listener) {
                Accepted::Connection(stream, _) => {
                    stream.set_nonblocking(false)?;
                    thread::Builder::new().spawn(move || io::copy(&mut &stream, &mut &stream))?;
                }
                Accepted::WouldBlock => {}
                Accepted::Pause => thread::sleep(Duration::from_millis(100)),
            }
        }
    })
}
