//! Mistake: out of descriptors, the server waits for the listener as before.
//!
//! Seen: when all descriptors are taken it uses all of a core, and serves its clients the
//! slower for it.
//!
//! Rule: a listener is readable while somebody waits to be accepted. An `accept(2)` that fails
//! for want of a descriptor takes nobody off the queue: the next `poll` returns at once, and so
//! on.
//!
//! Show: once it is built, `(ulimit -n 20; cargo run -p pitfalls --bin accept-spins)`, then
//! `for i in $(seq 30); do (sleep 60 | nc 127.0.0.1 7000 &) done`, and `top`.
//!
//! Right: `starved` in `epoll-echo/src/main.rs`: the listener is left out of the wait until a
//! connection closes or a moment has gone by.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        loop {
            // It can fail with EINTR: then nobody waits.
            let _ =
                poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            match accept(&listener) {
                Accepted::Connection(stream, _) => {
                    thread::Builder::new().spawn(move || echo(&stream))?;
                }
                Accepted::WouldBlock | Accepted::Pause => {} // <- the mistake
            }
        }
    })
}

/// Its end is this client's only.
fn echo(stream: &TcpStream) {
    let _ = io::copy(&mut &*stream, &mut &*stream);
}
