//! Mistake: SIGPIPE does what it does by default.
//!
//! Seen: the server is gone, without a word in its log, when a client leaves before it has its
//! answers.
//!
//! Rule: `write(2)` to a connection that the peer has reset fails with EPIPE, and raises
//! SIGPIPE, which ends the process (send(2) with `MSG_NOSIGNAL` does not raise it). In C every
//! server has to ignore it. A Rust program does from its start; a library with a handler of its
//! own, or `SIG_DFL` as here, undoes that.
//!
//! Show: `cargo run -p pitfalls --bin sigpipe-deadly`, then `head -c 1M /dev/zero | nc -q 0
//! 127.0.0.1 7000 | true`, once or twice.
//!
//! Right: nothing in our servers: Rust's runtime ignores SIGPIPE, and std sends with
//! `MSG_NOSIGNAL`; `Connection::go_on` in `common/src/connection.rs` takes EPIPE for the end of
//! this peer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::signal::{SigHandler, Signal, signal};
use pitfalls::threads;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // SAFETY: no handler is installed.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?; // <- the mistake
        threads(&addr, |stream| echo(OwnedFd::from(stream).into()))
    })
}

/// A `File` reads with `read(2)` and writes with `write(2)`, as a C program would.
fn echo(mut stream: File) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}
