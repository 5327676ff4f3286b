//! Mistake: the server checks the flag that the signal handler sets, and then calls `pause`.
//!
//! Symptom: now and then a client gets no reply until another client sends something.
//!
//! Rule: a signal that arrives between the check and pause(2) sets the flag too late for the check
//! and too early for `pause`, which waits for the *next* signal. Block the signal, and wait with
//! sigsuspend(2): it unblocks the signal and sleeps in one atomic step.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin check-then-pause`
//! 2. In a second terminal: `for i in {1..9}; do echo hello | timeout 1 nc 127.0.0.1 7000; done`.
//!    Fewer than nine replies are printed.
//!
//! Correct: `main` in `sigio-echo/src/main.rs` blocks the signals, and `serve` waits with
//! `suspend`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, exit_on_stop, listen,
    run,
};
use nix::sys::signal::Signal;
use nix::unistd::{alarm, pause};
use pitfalls::{MAX_STEPS, enable_sigio};
use signal_hook::flag;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        let ready = Arc::new(AtomicBool::new(true));
        flag::register(Signal::SIGIO as i32, Arc::clone(&ready))?;
        flag::register(Signal::SIGALRM as i32, Arc::clone(&ready))?;
        enable_sigio(&listener)?;
        announce(listener.local_addr()?);
        let mut connections: Vec<Connection> = Vec::new();
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            while ready.swap(false, Ordering::Relaxed) {
                match accept(&listener) {
                    Accepted::Connection(stream, peer) => {
                        let connection = Connection::new(stream, peer)?;
                        enable_sigio(&connection)?;
                        connections.push(connection);
                        ready.store(true, Ordering::Relaxed); // there may be more
                    }
                    Accepted::WouldBlock => {}
                    Accepted::Pause => drop(alarm::set(1)),
                }
                connections.retain_mut(|connection| {
                    for _ in 0..MAX_STEPS {
                        match connection.step(&mut buffer) {
                            Progress::Echoed(_) => {}
                            Progress::WantRead | Progress::WantWrite => return true,
                            Progress::Closed => return false,
                        }
                    }
                    ready.store(true, Ordering::Relaxed); // no signal will report the rest
                    true
                });
            }
            // Stands for any work here. Without it the wake-up would also be missed, but rarely.
            thread::sleep(Duration::from_millis(1));
            pause(); // <- the mistake
        }
    })
}
