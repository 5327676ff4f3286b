//! Mistake: a process for each client, and nobody asks how they ended.
//!
//! Seen: after some thousand clients `fork` fails: the table of processes is full of
//! `<defunct>`.
//!
//! Rule: a child that has ended stays as a zombie until its parent calls `wait(2)`, or has said
//! by ignoring SIGCHLD (explicitly: to leave it at its default does not count) that it never
//! will.
//!
//! Show: `cargo run -p pitfalls --bin zombies`, then `for i in 1 2 3; do echo hello | nc -N
//! 127.0.0.1 7000; done; ps -C zombies`.
//!
//! Right: `main` in `blocking-echo/src/bin/blocking-echo-fork.rs`: `signal(SIGCHLD, SigIgn)`.

use std::io;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::warn;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        // <- the mistake: SIGCHLD should be ignored from here on
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        loop {
            let Accepted::Connection(mut stream, peer) = accept(&listener) else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // SAFETY: this process has one thread, so no lock is held that the child would need.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    drop(listener);
                    set_pdeathsig(Signal::SIGTERM)?;
                    let _ = io::copy(&mut stream.try_clone()?, &mut stream);
                    process::exit(0);
                }
                Ok(ForkResult::Parent { .. }) => {}
                Err(error) => warn!("{peer} refused: {error}"),
            }
        }
    })
}
