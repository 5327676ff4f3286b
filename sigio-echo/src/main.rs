//! Signal-driven: the kernel sends a signal when something comes, and the process is free until
//! then. The signal does not say which socket: the process tries every one.
//!
//! ```text
//!      application                              kernel
//!      fcntl(8, O_ASYNC) ─────── once ───────▶  tell this process of listener, 7, 8, 9 …
//!  (1) sigsuspend ───────────────────────────▶  ┐
//!        blocked                                │ wait: until something *comes*
//!  (2) SIGIO: the handler sets a flag ◀──────   ┘ a message for 8 has arrived
//!  (3) accept, read(7), read(9) … EAGAIN ────▶    whose it was, only asking tells
//!      read(8) ──────────────────────────────▶  ┐ copy: it is there already,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy, as much as fits
//!      … until nothing is left ──────────────▶    what is left unread is never signalled again
//! ```
//!
//! A message: (1) the thread sleeps; a program with work of its own would work here instead, and
//! look at the flag now and then. (2) The signal comes at the end of the *wait*, when the socket is
//! ready: the *copy* is still the process's own. (3) It accepts and reads wherever there is
//! something, (4) and writes. (5) A peer that sends faster than it is read gets `STEPS` steps a
//! round; as no signal will tell of the rest, the process sends itself one.
//!
//! - Why every socket: SIGIO carries no descriptor that can be relied on. It is an ordinary signal,
//!   of which at most one is pending: fifteen messages on five connections may be one SIGIO.
//! - Why until nothing is left: it tells that something came, not that something is there. It is
//!   edge-triggered.
//! - Why a read follows `O_ASYNC`: what came before it is signalled to nobody.
//!
//! Run: `cargo run -p sigio-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/sigio-echo.svg`.
//!
//! Use it when: a program that computes has a few sockets, or a terminal, to hear of on the side.
//! Limits: a wake-up costs a read for every connection, idle or not. CPU a message, against
//! `epoll-echo`: the same with 64 connections all busy (3.0 system calls for 2.0), thirty-five
//! times with one beside 900 idle (docs/benchmarks: 64 active, 1+900). Signals belong to the whole
//! process: a library that handles SIGIO itself, or a thread that does not block it, breaks this.
//! Compare with: `diff nonblocking-echo/src/main.rs sigio-echo/src/main.rs` (when to ask again),
//! `diff sigio-echo/src/main.rs sigio-echo/src/bin/sigio-echo-realtime.rs` (which socket).

use std::mem;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_flag,
};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{alarm, getpid};
use signal_hook::flag;

/// Connections accepted in a round, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Steps of the copy for one connection in a round: a flood keeps the others waiting no longer.
const STEPS: usize = 4;
/// Seconds until `accept` is tried again while descriptors are short.
const RETRY: u32 = 1;

struct Server {
    listener: TcpListener,
    connections: Vec<Connection>,
    /// Something is left to do that no signal will tell of.
    unfinished: bool,
    /// Out of descriptors.
    starved: bool,
    /// Where a step of the copy keeps its bytes: shared, for no connection leaves any in it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // Blocked except in `sigsuspend`: a signal that comes between a look at the flags and the
        // sleep stays pending, and ends the sleep at once. Unblocked, it would come before the
        // sleep, which nothing would then end.
        let signals = [Signal::SIGIO, Signal::SIGALRM, Signal::SIGINT, Signal::SIGTERM];
        signals.into_iter().collect::<SigSet>().thread_block()?;
        // The handlers set these flags, and do nothing else. Pitfall: handler-prints
        let (stop, news) = (stop_flag()?, Arc::new(AtomicBool::new(false)));
        flag::register(Signal::SIGIO as i32, Arc::clone(&news))?;
        flag::register(Signal::SIGALRM as i32, Arc::clone(&news))?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        arm(&listener)?;
        let (connections, buffer) = (Vec::new(), vec![0; BUFFER_SIZE]);
        // Somebody may have come before the listener was armed.
        Server { listener, connections, unfinished: true, starved: false, buffer }
            .serve(&news, &stop)
    })
}

/// From now on SIGIO tells this process of what comes to `socket`, which does not block.
fn arm(socket: &impl AsRawFd) -> nix::Result<()> {
    let owner = (libc::F_SETOWN, getpid().as_raw()); // without one, the signal goes to nobody
    let flags = (libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    for (command, argument) in [owner, flags] {
        // SAFETY: these commands take a number and touch no memory.
        Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), command, argument) })?;
    }
    Ok(())
}

impl Server {
    fn serve(&mut self, news: &AtomicBool, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            if news.swap(false, Ordering::Relaxed) {
                self.accept_some()?;
                self.go_on();
            }
            if mem::take(&mut self.unfinished) {
                raise(Signal::SIGIO)?; // (5)
            }
            if self.starved {
                alarm::set(RETRY);
            }
            trace!("wait: sigsuspend"); // (1)
            SigSet::empty().suspend()?; // Pitfall: check-then-pause
            trace!("wait: sigsuspend, ended by a signal"); // (2)
        }
        Ok(())
    }

    /// Steps of the copy for every connection (3, 4), until nothing is left or nothing more fits.
    fn go_on(&mut self) {
        let before = self.connections.len();
        self.connections.retain_mut(|connection| {
            for _ in 0..STEPS {
                match connection.step(&mut self.buffer) {
                    Progress::Echoed(_) => {}
                    // A signal will tell; of room to write too, as there was none just now.
                    Progress::WantRead | Progress::WantWrite => return true,
                    Progress::Closed => return false,
                }
            }
            self.unfinished = true;
            true
        });
        if self.starved && self.connections.len() < before {
            self.unfinished = true;
        }
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(Connection::new(stream, peer)?),
                Accepted::WouldBlock => return Ok(()),
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.starved = true;
                    return Ok(());
                }
            }
        }
        self.unfinished = true;
        Ok(())
    }

    fn add(&mut self, connection: Connection) {
        match arm(&connection) {
            // It may have sent already: it is tried in this round, like all the others.
            // Pitfall: before-o-async
            Ok(()) => self.connections.push(connection),
            // The kernel is out of memory.
            Err(error) => warn!("descriptor {} refused: {error}", connection.as_raw_fd()),
        }
    }
}
