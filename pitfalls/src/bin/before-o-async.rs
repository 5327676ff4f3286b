//! Mistake: the server sets `O_ASYNC` on a new connection, and then does not try to read.
//!
//! Symptom: a client that sends its data at once, before the server has set `O_ASYNC`, gets no
//! reply until the next signal, such as that of another client.
//!
//! Rule: SIGIO reports that data arrives. Data that arrived before `O_ASYNC` was set causes no
//! signal. So after `O_ASYNC` is set, try to read once.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin before-o-async`
//! 2. In a second terminal: `for i in {1..9}; do echo hello | timeout 1 nc 127.0.0.1 7000; done`.
//!    Fewer than nine replies are printed.
//!
//! Correct: `add` in `sigio-echo/src/main.rs`. The same iteration reads from the new connection.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, exit_on_stop, listen,
    run,
};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;
use pitfalls::{MAX_STEPS, enable_sigio};
use signal_hook::flag;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        // These signals stay blocked except in `sigsuspend`.
        [Signal::SIGIO, Signal::SIGALRM].into_iter().collect::<SigSet>().thread_block()?;
        let ready = Arc::new(AtomicBool::new(false));
        flag::register(Signal::SIGIO as i32, Arc::clone(&ready))?;
        flag::register(Signal::SIGALRM as i32, Arc::clone(&ready))?;
        enable_sigio(&listener)?;
        announce(listener.local_addr()?);
        let mut connections: Vec<Connection> = Vec::new();
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            while ready.swap(false, Ordering::Relaxed) {
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
                // <- the mistake: nothing reads from a connection accepted here before the next
                // signal
                loop {
                    match accept(&listener) {
                        Accepted::Connection(stream, peer) => {
                            let connection = Connection::new(stream, peer)?;
                            enable_sigio(&connection)?;
                            connections.push(connection);
                        }
                        Accepted::WouldBlock => break,
                        Accepted::Pause => {
                            alarm::set(1);
                            break;
                        }
                    }
                }
            }
            SigSet::empty().suspend()?;
        }
    })
}
