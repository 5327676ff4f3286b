//! Mistake: a look at the flag that the signal handler sets, and then `pause`.
//!
//! Seen: now and then a client gets no answer, until the next one sends something.
//!
//! Rule: a signal that comes between the look and `pause(2)` has set the flag for nobody:
//! `pause` waits for the *next* one. `sigsuspend(2)` unblocks the signal and sleeps in one
//! step.
//!
//! Show: `cargo run -p pitfalls --bin check-then-pause`, then `for i in 1 2 3 4 5 6; do echo
//! hello | timeout 1 nc 127.0.0.1 7000; done`: some of them get nothing.
//!
//! Right: `main` (blocked) and `Server::serve` (`suspend`) in `sigio-echo/src/main.rs`.

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
use pitfalls::arm;
use signal_hook::flag;

/// Steps of the copy for one connection in a round.
const STEPS: usize = 4;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        let news = Arc::new(AtomicBool::new(true));
        flag::register(Signal::SIGIO as i32, Arc::clone(&news))?;
        flag::register(Signal::SIGALRM as i32, Arc::clone(&news))?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        arm(&listener)?;
        let (mut connections, mut buffer): (Vec<Connection>, _) =
            (Vec::new(), vec![0; BUFFER_SIZE]);
        loop {
            while news.swap(false, Ordering::Relaxed) {
                match accept(&listener) {
                    Accepted::Connection(stream, peer) => {
                        let connection = Connection::new(stream, peer)?;
                        arm(&connection)?;
                        connections.push(connection);
                        news.store(true, Ordering::Relaxed);
                    }
                    Accepted::WouldBlock => {}
                    Accepted::Pause => drop(alarm::set(1)),
                }
                connections.retain_mut(|connection| {
                    let step = |_| connection.step(&mut buffer);
                    let next =
                        (0..STEPS).map(step).find(|next| !matches!(next, Progress::Echoed(_)));
                    // No signal will tell of what is left.
                    news.fetch_or(next.is_none(), Ordering::Relaxed);
                    next != Some(Progress::Closed)
                });
            }
            // Whatever stands here, the signal may come meanwhile. It would be lost without this
            // too, only less often.
            thread::sleep(Duration::from_millis(1));
            pause(); // <- the mistake
        }
    })
}
