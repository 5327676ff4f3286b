//! Mistake: the server forks a process per client and never collects their exit statuses.
//!
//! Symptom: `ps` lists more and more `<defunct>` processes. After some thousand clients `fork`
//! fails, because the process table or the limit of the user is full.
//!
//! Rule: a child that has exited stays in the process table as a zombie until its parent calls
//! wait(2). A parent that ignores SIGCHLD explicitly has no zombies. The default action, which also
//! does nothing, does not count as ignoring it.
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin zombies`
//! 2. In a second terminal:
//!    `for i in 1 2 3; do echo hello | nc -N 127.0.0.1 7000; done; ps -C zombies` lists three
//!    defunct processes.
//!
//! Correct: `main` in `blocking-echo/src/bin/blocking-echo-fork.rs` ignores SIGCHLD.

use std::process::{self, ExitCode};
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::warn;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork};
use pitfalls::{ACCEPT_RETRY, echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        // <- the mistake: SIGCHLD has to be ignored here
        announce(listener.local_addr()?);
        loop {
            let Accepted::Connection(stream, peer) = accept(&listener) else {
                thread::sleep(ACCEPT_RETRY);
                continue;
            };
            // SAFETY: the process has one thread, so the child cannot inherit a lock that is held.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    drop(listener);
                    set_pdeathsig(Signal::SIGTERM)?; // a child ends with the server
                    let _ = echo(&stream);
                    process::exit(0);
                }
                Ok(ForkResult::Parent { .. }) => {}
                Err(error) => warn!("{peer} refused: {error}"),
            }
        }
    })
}
