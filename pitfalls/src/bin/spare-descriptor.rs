//! Mistake: out of descriptors, a spare one is closed so that the next connection can be
//! accepted and closed; and this goes on until `accept` says that nobody waits.
//!
//! Seen: once all descriptors are taken the server uses all of a core, for ever, and where it
//! has one thread serves nobody any more.
//!
//! Rule: `accept(2)` takes a descriptor before it looks at its queue: with a full table it
//! fails with EMFILE even when nobody waits, and never says EAGAIN.
//!
//! Show: once it is built, `(ulimit -n 20; cargo run -p pitfalls --bin spare-descriptor)`, then
//! `for i in $(seq 30); do (sleep 60 | nc 127.0.0.1 7000 &) done`, and `top`.
//!
//! Right: `accept_some` in `epoll-echo/src/main.rs`: at the first such error it stops asking.
//! Those who wait are served when there is room.

use std::fs::File;
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
        let mut spare = File::open("/dev/null").ok();
        loop {
            // It can fail with EINTR: then nobody waits.
            let _ =
                poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            loop {
                match accept(&listener) {
                    Accepted::Connection(stream, _) => {
                        thread::Builder::new().spawn(move || echo(&stream))?;
                    }
                    Accepted::WouldBlock => break, // <- the mistake: it never says that
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

/// Its end is this client's only.
fn echo(stream: &TcpStream) {
    let _ = io::copy(&mut &*stream, &mut &*stream);
}
