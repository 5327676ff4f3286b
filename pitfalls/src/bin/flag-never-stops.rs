//! Mistake: a signal handler sets a flag, and the loop that checks the flag blocks in `accept`.
//!
//! Symptom: `kill` and Ctrl-C have no effect until the next client connects.
//!
//! Rule: glibc's signal(2) and most libraries install handlers with `SA_RESTART`, so accept(2)
//! continues after the handler has run. std's `accept` repeats the call even without `SA_RESTART`.
//! And even if `accept` returned, a signal could still arrive between the check of the flag and the
//! call.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin flag-never-stops`
//! 2. Press Ctrl-C: the server keeps running. It exits when `nc 127.0.0.1 7000` connects.
//!
//! Correct: in `common/src/signals.rs`, the handler of `exit_on_stop` ends the process, for servers
//! that block in `accept` and `read`. `stop_socket` returns a socket that becomes readable, for
//! servers that wait for many file descriptors.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, listen, run, stop_flag};
use pitfalls::{ACCEPT_RETRY, spawn_echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let stop = stop_flag()?;
        announce(listener.local_addr()?);
        while !stop.load(Ordering::Relaxed) {
            // <- the mistake: the thread is blocked here when the signal arrives
            match accept(&listener) {
                Accepted::Connection(stream, peer) => spawn_echo(stream, peer),
                Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
        Ok(())
    })
}
