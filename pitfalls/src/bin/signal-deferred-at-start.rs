//! Mistake: the server installs a handler that only records the signal, and then resolves the
//! address on which it is to listen.
//!
//! Symptom: while the name server does not answer, SIGTERM and Ctrl-C have no effect for many
//! seconds, and a supervisor kills the server in the end.
//!
//! Rule: a handler replaces the default action, which would end the process at once. From then on,
//! the program itself has to react, but getaddrinfo(3) blocks for seconds and repeats interrupted
//! calls. So keep the default action until the program can react.
//!
//! Reproduce (as root):
//! 1. A name server that does not answer: `python3 -c 'import socket as s; u =
//!    s.socket(type=s.SOCK_DGRAM); u.bind(("127.0.0.9", 53)); input()'`
//! 2. In a second terminal: `cargo build -p pitfalls`, `unshare -m`,
//!    `echo nameserver 127.0.0.9 >/tmp/resolv; mount --bind /tmp/resolv /etc/resolv.conf`, and
//!    `target/debug/signal-deferred-at-start www.example.com:7000`
//! 3. Press Ctrl-C: the server ends only when the look-up has failed, ten seconds later.
//!
//! Correct: `main` in `epoll-echo/src/main.rs` calls `stop_socket` after `listen`.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, listen, run, stop_socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pitfalls::{ACCEPT_RETRY, spawn_echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let stop = stop_socket()?; // <- the mistake: it has to follow `listen`
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        announce(listener.local_addr()?);
        loop {
            let watched = [stop.as_fd(), listener.as_fd()];
            let mut watched = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let _ = poll(&mut watched, PollTimeout::NONE); // after EINTR, none is ready
            if watched[0].any() == Some(true) {
                return Ok(());
            }
            match accept(&listener) {
                Accepted::Connection(stream, peer) => spawn_echo(stream, peer),
                Accepted::WouldBlock => {}
                Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    })
}
