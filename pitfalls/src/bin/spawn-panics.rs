//! Mistake: the server creates the thread of a client with `std::thread::spawn`.
//!
//! Symptom: at the limit of threads, the next client ends the server, and all other clients lose
//! their connections.
//!
//! Rule: `pthread_create(3)` fails with EAGAIN at `RLIMIT_NPROC`, at the limit of the container
//! (pids.max) or of the system, and when there is no memory for the stack. `thread::spawn` panics
//! then. `thread::Builder::spawn` returns the error.
//!
//! Reproduce:
//! 1. `cargo build -p pitfalls`
//! 2. `(ulimit -v 50000; target/debug/spawn-panics)`. The address space is then too small for the
//!    stacks of many threads.
//! 3. In a second terminal: `for i in $(seq 30); do (sleep 9 | nc 127.0.0.1 7000 &) done`. The
//!    server panics.
//!
//! Correct: `main` in `blocking-echo/src/main.rs` refuses the client.

use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use pitfalls::{ACCEPT_RETRY, echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            match accept(&listener) {
                Accepted::Connection(stream, _) => {
                    thread::spawn(move || echo(&stream)); // <- the mistake
                }
                Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    })
}
