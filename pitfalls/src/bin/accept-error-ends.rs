//! Mistake: an error from `accept` ends the server.
//!
//! Symptom: when more clients connect than the process has file descriptors for, the server exits,
//! and all its clients lose their connections.
//!
//! Rule: the errors of accept(2) that occur in practice do not concern the listening socket.
//! EMFILE, ENFILE, ENOBUFS and ENOMEM mean that the process or the system is out of file
//! descriptors or memory at the moment. ECONNABORTED and the network errors belong to the one
//! connection that failed while it was in the queue.
//!
//! Reproduce:
//! 1. `cargo build -p pitfalls`
//! 2. `(ulimit -n 20; cargo run -p pitfalls --bin accept-error-ends)`
//! 3. In a second terminal: `for i in $(seq 30); do (sleep 9 | nc 127.0.0.1 7000 &) done`. The
//!    server exits with "Too many open files".
//!
//! Correct: `Accepted` in `common/src/socket.rs` has no variant for an error. A server takes the
//! next connection or pauses accepting.

use std::process::ExitCode;

use common::{ECHO_ADDR, announce, exit_on_stop, listen, run};
use pitfalls::spawn_echo;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            let (stream, peer) = listener.accept()?; // <- the mistake
            spawn_echo(stream, peer);
        }
    })
}
