//! Mistake: worker processes do not notice that their parent has ended.
//!
//! Symptom: the parent is killed (by the OOM killer, or by `kill -9`), and its workers continue. They
//! keep the port in use, so the server cannot be started again: `Address already in use`.
//!
//! Rule: a child is not ended with its parent. Linux can send it a signal then (`PR_SET_PDEATHSIG`,
//! prctl(2)). The child sets that after `fork`, and then checks whether the parent has ended already.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin workers-outlive-parent`
//! 2. In a second terminal: `pkill -9 -o workers-outlive`
//! 3. Start it again: it cannot listen. (`pkill workers-outlive` ends the workers.)
//!
//! Correct: `end_when_parent_ends` in `blocking-echo/src/bin/blocking-echo-prefork.rs`.

use std::process::ExitCode;
use std::thread;

use common::{ECHO_ADDR, run};
use nix::sys::wait::wait;
use pitfalls::{ACCEPT_RETRY, prefork, start_worker};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let ends_with_parent = false; // <- the mistake: no worker calls prctl(PR_SET_PDEATHSIG)
        prefork(&addr, ends_with_parent, |listener| {
            loop {
                wait()?;
                thread::sleep(ACCEPT_RETRY);
                start_worker(listener, ends_with_parent)?;
            }
        })
    })
}
