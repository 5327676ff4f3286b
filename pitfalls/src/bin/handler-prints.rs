//! Mistake: a signal handler prints a line.
//!
//! Symptom: the server works for days. Then it panics, aborts or deadlocks, because a signal
//! arrived while the program itself was printing or allocating.
//!
//! Rule: a signal handler can run between any two instructions, for example inside `println!` or
//! `malloc`, which hold a lock at that moment. A handler may call only the functions that
//! signal-safety(7) lists. printf, malloc and std's `println!` are not among them.
//!
//! Reproduce: `(sleep 1; cargo run -p pitfalls --bin handler-prints) | true`. Here the handler is
//! that of SIGPIPE, and the `println!` in `announce` raises the signal, because nothing reads the
//! pipe. So the failure occurs every time.
//!
//! Correct: the handler in `sigio-echo/src/main.rs` (signal-hook's) sets a flag and does nothing
//! else. The handler of `stop_socket` in `common/src/signals.rs` writes one byte to a socket.

use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use pitfalls::{echo, threads};

extern "C" fn on_sigpipe(_: i32) {
    println!("the reader of stdout is gone"); // <- the mistake
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // SAFETY: none, because the handler is not async-signal-safe. std detects it and panics.
        unsafe { signal(Signal::SIGPIPE, SigHandler::Handler(on_sigpipe)) }?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?; // no core file
        threads(&addr, |stream| echo(&stream))
    })
}
