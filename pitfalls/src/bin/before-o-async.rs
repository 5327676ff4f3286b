//! Mistake: after `O_ASYNC` is set on a connection, the server waits for its signal.
//!
//! Seen: a client that sends at once, before the server gets to accept it, is never answered.
//!
//! Rule: SIGIO tells that something comes. What had come before `O_ASYNC` was set is told to
//! nobody: after setting it, try once.
//!
//! Show: `cargo run -p pitfalls --bin before-o-async`, then `for i in 1 2 3 4 5 6; do echo
//! hello | timeout 2 nc 127.0.0.1 7000; done`: some of them get nothing.
//!
//! Right: `Server::add` in `sigio-echo/src/main.rs`: a new connection is tried in the round in
//! which it came.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, exit_on_stop, listen,
    run,
};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;
use pitfalls::arm;
use signal_hook::flag;

/// Steps of the copy for one connection in a round.
const STEPS: usize = 4;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        // Blocked except in `sigsuspend`.
        [Signal::SIGIO, Signal::SIGALRM].into_iter().collect::<SigSet>().thread_block()?;
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
                connections.retain_mut(|connection| {
                    let step = |_| connection.step(&mut buffer);
                    let next =
                        (0..STEPS).map(step).find(|next| !matches!(next, Progress::Echoed(_)));
                    // No signal will tell of what is left.
                    news.fetch_or(next.is_none(), Ordering::Relaxed);
                    next != Some(Progress::Closed)
                });
                // <- the mistake: this comes last, and then it sleeps: nobody tries the new ones
                loop {
                    match accept(&listener) {
                        Accepted::Connection(stream, peer) => {
                            connections.push(Connection::new(stream, peer)?);
                            connections.last().map_or(Ok(()), arm)?;
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
