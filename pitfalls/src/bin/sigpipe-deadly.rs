//! Mistake: SIGPIPE has its default action.
//!
//! Symptom: the server is gone, without a line in its log, after a client left before it received
//! its replies.
//!
//! Rule: after a reset, the first write(2) fails with ECONNRESET and the next one with EPIPE. If
//! the peer has sent FIN before the RST, as here, the first one fails with EPIPE. EPIPE raises
//! SIGPIPE, which by default ends the process. send(2) with `MSG_NOSIGNAL` does not raise it. A
//! server in C must ignore SIGPIPE. A Rust program starts with SIGPIPE ignored, but a library can
//! restore the default action, as this program does.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin sigpipe-deadly`
//! 2. In a second terminal, once or twice: `head -c 1M /dev/zero | nc -q 0 127.0.0.1 7000 | true`.
//!    The server is gone, and `echo $?` in the first terminal prints 141, which is 128 + SIGPIPE.
//!
//! Correct: our servers do nothing about it. The Rust runtime ignores SIGPIPE, and std sends with
//! `MSG_NOSIGNAL`. `Connection::step` in `common/src/connection.rs` handles EPIPE as the end of
//! this connection.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::signal::{SigHandler, Signal, signal};
use pitfalls::threads;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // SAFETY: this installs no handler.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?; // <- the mistake
        threads(&addr, |stream| serve(OwnedFd::from(stream).into()))
    })
}

/// Uses a `File`, which calls read(2) and write(2) as a C program would.
fn serve(mut stream: File) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}
