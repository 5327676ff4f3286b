//! Non-blocking: nobody waits in a call. One thread asks every socket whether there is something
//! to read, over and over.
//!
//! ```text
//!      application                              kernel
//!  (1) read(8) ──────────────────────────────▶  ┐
//!        EAGAIN ◀────────────────────────────   │ wait: no data yet, and the call says so
//!      read(9), read(7), accept … EAGAIN        │ at once instead of waiting
//!  (2) pause, or none                           │
//!      read(8) ──────────────────────────────▶  ┘ a message has arrived
//!  (3)   6 bytes ◀───────────────────────────     copy
//!  (4) write(8) ─────────────────────────────▶    copy, as much as fits
//! ```
//!
//! A message: (1) each round asks the listener and each socket; (2) a round that found nothing
//! ends with the pause; (3) the read that finds something copies it; (4) one write. (5) What the
//! write leaves is owed, and tried again in each round.
//!
//! Run: `cargo run -p nonblocking-echo -- 127.0.0.1:7000 10`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/nonblocking-echo.svg`.
//!
//! Use it when: never by itself. The non-blocking socket is a part of the models that follow, which
//! only add a way to wait for it. This is what they save.
//! Limits: an idle connection costs CPU all the time, a read in each round. Without a pause a core
//! is always busy; with one the core rests, and each message may come late by as much
//! (docs/benchmarks: pause).
//! Compare with: `diff nonblocking-echo/src/main.rs select-echo/src/main.rs` (a way to wait).

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, Arg, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_flag,
};
use log::{trace, warn};

const PAUSE: Arg = Arg {
    name: "PAUSE",
    default: "0",
    meaning: "milliseconds to sleep after a round that found nothing; 0 spins",
};
/// The longest pause: SIGTERM is heard after it.
const MAX_PAUSE: f64 = 500.0;
/// Connections accepted in a round, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;

struct Server {
    listener: TcpListener,
    connections: Vec<Connection>,
    /// Where a step of the copy keeps its bytes: shared, for no connection leaves any in it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR, PAUSE], |[addr, pause]| {
        let pause = parse(&pause).with_context(|| {
            format!("PAUSE is {pause:?}: not a number of milliseconds from 0 to {MAX_PAUSE}")
        })?;
        let stop = stop_flag()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        if pause.is_zero() {
            warn!("no pause: a core is busy all the time, even when nobody talks");
        }
        Server { listener, connections: Vec::new(), buffer: vec![0; BUFFER_SIZE] }
            .serve(&stop, pause)
    })
}

fn parse(pause: &str) -> Option<Duration> {
    let milliseconds: f64 = pause.parse().ok()?;
    let allowed = (0.0..=MAX_PAUSE).contains(&milliseconds);
    allowed.then(|| Duration::from_secs_f64(milliseconds / 1000.0))
}

impl Server {
    fn serve(&mut self, stop: &AtomicBool, pause: Duration) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let copied = self.go_on();
            let came = self.accept_some()?;
            if !copied && !came && !pause.is_zero() {
                trace!("wait: sleep"); // (2)
                thread::sleep(pause);
                trace!("wait: sleep is over");
            }
        }
        Ok(())
    }

    /// One step of the copy for every connection (1, 3, 4, 5); whether any of them got on.
    fn go_on(&mut self) -> bool {
        let mut copied = false;
        self.connections.retain_mut(|connection| {
            let next = connection.step(&mut self.buffer);
            copied |= matches!(next, Progress::Echoed(_));
            next != Progress::Closed
        });
        copied
    }

    /// Asks the listener (1); whether anybody came. Out of descriptors there is nothing to do: the
    /// next round asks again.
    fn accept_some(&mut self) -> anyhow::Result<bool> {
        let before = self.connections.len();
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => {
                    self.connections.push(Connection::new(stream, peer)?);
                }
                Accepted::WouldBlock | Accepted::Pause => break,
            }
        }
        Ok(self.connections.len() > before)
    }
}
