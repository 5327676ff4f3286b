//! Non-blocking I/O: no call on a socket waits. One thread tries to read from every socket, again
//! and again.
//!
//! ```text
//!      application                              kernel
//!  (1) read(8) ──────────────────────────────▶  ┐
//!        EAGAIN ◀────────────────────────────   │ wait: there is no data yet, and the call
//!      read(9), read(7), accept … EAGAIN        │ returns at once instead of waiting
//!  (2) sleep for PAUSE, or not at all           │
//!      read(8) ──────────────────────────────▶  ┘ a message has arrived
//!  (3)   6 bytes ◀───────────────────────────     copy
//!  (4) write(8) ─────────────────────────────▶    copy: as much as the send buffer takes
//! ```
//!
//! How a message travels: (1) Each iteration tries `read` on every socket, and `accept` on the
//! listener. A socket without data returns EAGAIN. (2) If an iteration moved no bytes and accepted
//! no client, the thread sleeps for PAUSE. (3) The `read` that finds data copies it. (4) The server
//! writes once. (5) Bytes that the socket does not take are pending output. Each iteration tries to
//! write them, and the server does not read from this client until they are written.
//!
//! The catch: the thread has no way to sleep until data arrives. Without a pause it keeps a core
//! busy all the time. With a pause the core rests, but a message can wait for up to one
//! pause (`docs/benchmarks`: pause).
//!
//! Run: `cargo run -p nonblocking-echo -- 127.0.0.1:7000 10`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/nonblocking-echo.svg`.
//!
//! Use it when: never on its own. select, poll and epoll use non-blocking sockets too, and add a
//! way to wait for them. This server shows the cost of having no such wait.
//! Limits: an idle connection costs a `read` in each iteration. The contract forbids that (`docs/contract.md`: idle).
//! Compare with:
//! - `diff nonblocking-echo/src/main.rs select-echo/src/main.rs`: the thread sleeps in `select`
//!   until a socket is ready.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, Arg, BUFFER_SIZE, ECHO_ADDR, Progress, accept, announce, listen, run, stop_flag,
};
use log::{info, trace, warn};

const PAUSE: Arg = Arg {
    name: "PAUSE",
    default: "0",
    meaning: "milliseconds to sleep after an iteration that moved no bytes; 0 for no sleep",
};
/// The longest pause. A stop signal takes effect only after the pause, so the pause is limited.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;

struct Server {
    listener: TcpListener,
    connections: Vec<Connection>,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

/// An echo connection on a non-blocking socket.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Bytes that were read but not yet written, because the send buffer was full.
    pending: Vec<u8>,
    /// How many bytes of `pending` have been written since.
    offset: usize,
}

fn main() -> ExitCode {
    run([ECHO_ADDR, PAUSE], |[addr, pause]| {
        let pause = parse_pause(&pause).with_context(|| {
            let most = MAX_PAUSE.as_millis();
            format!("PAUSE is {pause:?}, not a number of milliseconds from 0 to {most}")
        })?;
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = stop_flag()?;
        let mut server = Server { listener, connections: Vec::new(), buffer: vec![0; BUFFER_SIZE] };
        if pause.is_zero() {
            warn!("PAUSE is 0: this server keeps a core busy, even without clients");
        }
        announce(address);
        server.serve(&stop, pause)
    })
}

fn parse_pause(milliseconds: &str) -> Option<Duration> {
    let milliseconds: f64 = milliseconds.parse().ok()?;
    // Fails for a negative number, for an infinite one, and for NaN.
    let pause = Duration::try_from_secs_f64(milliseconds / 1000.0).ok()?;
    (pause <= MAX_PAUSE).then_some(pause)
}

impl Server {
    /// Serves until `stop` becomes true (SIGINT or SIGTERM).
    fn serve(&mut self, stop: &AtomicBool, pause: Duration) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let echoed = self.step_all();
            let accepted = self.accept_some()?;
            if !echoed && !accepted && !pause.is_zero() {
                trace!("wait: sleep"); // (2)
                thread::sleep(pause);
                trace!("wait: sleep is over");
            }
        }
        Ok(())
    }

    /// Tries to read and write on every connection. Returns whether any bytes moved.
    fn step_all(&mut self) -> bool {
        let mut echoed = false;
        self.connections.retain_mut(|connection| {
            let before = connection.pending.len() - connection.offset;
            match connection.step(&mut self.buffer) {
                Ok(Progress::Echoed(_)) => echoed = true,
                // A write of pending output moves bytes too.
                Ok(Progress::WantRead | Progress::WantWrite) => {
                    echoed |= connection.pending.len() - connection.offset != before;
                }
                Ok(Progress::Closed) => {
                    info!("{} disconnected", connection.peer);
                    return false;
                }
                // ECONNRESET, EPIPE, ETIMEDOUT: ends this connection only. Pitfall: peer-error-ends
                Err(error) => {
                    info!("{} disconnected: {error}", connection.peer);
                    return false;
                }
            }
            true
        });
        echoed
    }

    /// Accepts new connections (1). Returns whether there were any.
    fn accept_some(&mut self) -> anyhow::Result<bool> {
        let before = self.connections.len();
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => {
                    stream.set_nonblocking(true)?; // not inherited from the listener
                    let pending = Vec::new();
                    self.connections.push(Connection { stream, peer, pending, offset: 0 });
                }
                // The next iteration tries again.
                Accepted::WouldBlock | Accepted::Pause => break,
            }
        }
        Ok(self.connections.len() > before)
    }
}

impl Connection {
    /// Writes pending output (5). If none is left, reads once into `buffer` and writes that back.
    /// No call here fails with EINTR, because none sleeps.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Progress> {
        if !self.pending.is_empty() {
            // `+=`, because this write can be short too. Pitfall: wrong-offset
            self.offset += self.write(&self.pending[self.offset..])?; // (5)
            if self.offset < self.pending.len() {
                return Ok(Progress::WantWrite);
            }
            self.pending = Vec::new(); // frees the memory; `clear` would keep it
            self.offset = 0;
        }
        let fd = self.stream.as_raw_fd();
        let count = match self.stream.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                trace!("copy: read({fd}) = EAGAIN"); // (1)
                return Ok(Progress::WantRead);
            }
            Err(error) => return Err(error),
        };
        trace!("copy: read({fd}) = {count}"); // (3)
        if count == 0 {
            return Ok(Progress::Closed); // EOF. No output is pending here.
        }
        let written = self.write(&buffer[..count])?; // (4)
        if written < count {
            self.pending = buffer[written..count].to_vec();
            return Ok(Progress::WantWrite);
        }
        Ok(Progress::Echoed(count))
    }

    /// Writes once. Returns how many bytes the socket took, which is 0 if its send buffer is full.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.stream.as_raw_fd();
        match (&self.stream).write(bytes) {
            Ok(count) => {
                trace!("copy: write({fd}) = {count} of {}", bytes.len());
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                trace!("copy: write({fd}) = EAGAIN");
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}
