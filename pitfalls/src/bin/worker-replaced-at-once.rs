//! Mistake: the parent replaces a worker process that has ended without a pause.
//!
//! Symptom: if each worker ends as soon as it starts (a missing file, a full disk, a mistake in a new
//! version), the parent keeps a core busy with fork(2), and fills the log.
//!
//! Rule: a program that restarts something needs a limit on how often: a pause, or a number of
//! attempts. (systemd.service(5): `RestartSec`, `StartLimitBurst`.)
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin worker-replaced-at-once`
//! 2. In a second terminal: `while pkill -P $(pgrep -x worker-replaced); do :; done`
//! 3. In a third terminal: `top` shows how busy the machine is.
//!
//! Correct: `replace_workers` in `blocking-echo/src/bin/blocking-echo-prefork.rs` sleeps first.

use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::wait::wait;
use pitfalls::{prefork, start_worker};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        prefork(&addr, true, |listener| {
            loop {
                wait()?;
                start_worker(listener, true)?; // <- the mistake: at once
            }
        })
    })
}
