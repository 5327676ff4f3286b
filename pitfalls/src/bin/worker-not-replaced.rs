//! Mistake: the parent starts its worker processes once, and does not replace a worker that ends.
//!
//! Symptom: each crash reduces the number of clients that are served at a time. After the last one
//! the server still runs and the port is still open, but nobody accepts.
//!
//! Rule: the parent has to wait for its workers with wait(2), and to start another one in place of
//! each that has ended.
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin worker-not-replaced`
//! 2. In a second terminal: `kill $(pgrep -P $(pgrep -x worker-not-rep))`
//! 3. `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: `replace_workers` in `blocking-echo/src/bin/blocking-echo-prefork.rs`.

use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::wait::wait;
use pitfalls::{WORKERS, prefork};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        prefork(&addr, true, |_| {
            for _ in 0..WORKERS {
                wait()?; // <- the mistake: it starts no other worker
            }
            Ok(())
        })
    })
}
