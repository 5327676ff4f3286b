//! Mistake: the server relies on SIGTERM not being blocked when it starts.
//!
//! Symptom: SIGTERM has no effect if the parent of the server, such as a supervisor, has blocked
//! it.
//!
//! Rule: execve(2) keeps the signal mask. A parent with threads often blocks signals, and a child
//! that it starts has them blocked too. Installing a handler does not unblock the signal. (An
//! ignored signal stays ignored too, but there a handler helps.)
//!
//! Reproduce:
//! 1. `env --block-signal=TERM cargo run -p pitfalls --bin blocked-signals-inherited`
//! 2. In a second terminal: `pkill -f blocked-signals` has no effect.
//!    `pkill -INT -f blocked-signals` ends the server.
//!
//! Correct: `run` in `common/src/start.rs` unblocks SIGINT and SIGTERM.

use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::signal::SigSet;
use pitfalls::{echo, threads};

fn main() -> ExitCode {
    let inherited = SigSet::thread_get_mask();
    run([ECHO_ADDR], |[addr]| {
        // `run` has unblocked the signals. This undoes it.
        inherited?.thread_set_mask()?; // <- the mistake
        threads(&addr, |stream| echo(&stream))
    })
}
