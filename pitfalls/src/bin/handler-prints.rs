//! Mistake: a signal handler prints a line.
//!
//! Seen: it works for days; then, under load, the server aborts, or hangs for good.
//!
//! Rule: a handler runs between any two instructions of what it interrupts: in the middle of a
//! `println!`, which holds a lock, or of `malloc`. Only the functions of signal-safety(7) may
//! be called; std's and glibc's printing and allocating are not among them.
//!
//! Show: `cargo run -p pitfalls --bin handler-prints 2> log`, then `head -c 50M /dev/zero | nc
//! -N 127.0.0.1 7000 | wc -c`; `tail log`.
//!
//! Right: `sigio-echo/src/main.rs`: the handler (signal-hook's) sets a flag, and nothing else;
//! `stop_socket` in `common/src/signals.rs`: it writes a byte into a pipe.

use std::os::fd::AsRawFd;
use std::process::ExitCode;

use common::{BUFFER, Connection, ECHO_ADDR, Next, run};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{SigHandler, Signal, signal};
use pitfalls::{arm, epoll, event};

extern "C" fn on_news(_: i32) {
    eprintln!("something has come"); // <- the mistake
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // SAFETY: none; this is the mistake. In Rust it ends in an abort, as std sees it.
        unsafe { signal(Signal::SIGIO, SigHandler::Handler(on_news)) }?;
        let mut buffer = vec![0; BUFFER];
        let new = |stream, peer| {
            let connection = Connection::new(stream, peer)?;
            arm(&connection)?;
            Ok(connection)
        };
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, connection, _| {
            let next = connection.go_on(&mut buffer);
            eprintln!("copied: {next:?}");
            let owes = connection.owes();
            let interest = if owes { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            epoll.modify(&*connection, &mut event(interest, connection.as_raw_fd()))?;
            Ok(next != Next::Close)
        })
    })
}
