//! Signal-driven I/O: the kernel sends the signal SIGIO when something happens on a socket. SIGIO
//! does not say on which socket, so the process tries every one.
//!
//! ```text
//!      application                              kernel
//!      fcntl(8, F_SETOWN, O_ASYNC) ── once ──▶  send SIGIO for listener, 7, 8, 9 …
//!  (1) sigsuspend ───────────────────────────▶  ┐
//!        asleep                                 │ wait: until something happens on a socket
//!  (2) SIGIO: the handler sets a flag ◀──────   ┘ a message for 8 has arrived
//!  (3) accept, read(7), read(9) … EAGAIN ────▶    trying is the only way to find the socket
//!      read(8) ──────────────────────────────▶  ┐ copy: the data is already there,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy: as much as the send buffer takes
//!      … until EAGAIN ───────────────────────▶    data that is left unread raises no signal
//! ```
//!
//! How a message travels: (1) The thread sleeps until a signal arrives. (2) The kernel sends SIGIO
//! when the *wait* is over. The *copy* is still to be done. (3) The server accepts, reads from
//! every connection until EAGAIN, and (4) writes back what it has read. (5) Each connection gets at
//! most `MAX_STEPS` steps in a row. No signal announces the data that is left, so the server then
//! sends SIGIO to itself.
//!
//! The catch: SIGIO is edge-triggered. It reports that something has happened, not that data is
//! there. And it does not queue: many messages on many connections can be one SIGIO. So try every
//! socket, and read until EAGAIN: data that is left is announced only when more arrives. And read
//! once after setting `O_ASYNC`: data that was there already has raised no signal.
//!
//! Run: `cargo run -p sigio-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/sigio-echo.svg`.
//!
//! Use it when: you maintain an old program that computes and has a few sockets on the side. In a
//! new program, use a second thread with `poll`.
//! Limits: each signal costs a read per connection, idle or not. With 64 busy connections, a message
//! costs the same CPU as in epoll-echo, and 3.0 system calls instead of 2.0. With one busy and 900
//! idle connections, it costs thirty-five times the CPU (docs/benchmarks: 64 active, 1+900). Signals
//! belong to the whole process: a library that handles SIGIO, or a thread that does not block it,
//! breaks the server.
//! Compare with: `diff nonblocking-echo/src/main.rs sigio-echo/src/main.rs` (when to try again),
//! `diff sigio-echo/src/main.rs sigio-echo/src/bin/sigio-echo-realtime.rs` (which socket).

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    Accepted, BUFFER_SIZE, ECHO_ADDR, Progress, accept, announce, listen, run, stop_flag,
};
use log::{info, trace, warn};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::alarm;
use sigio_echo::enable_sigio;
use signal_hook::flag;

/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The most reads from one connection per iteration, so that it does not delay the others.
const MAX_STEPS: usize = 4;
/// The longest time between two calls of `accept` while accepting is paused. alarm(2) takes whole
/// seconds.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

struct Server {
    listener: TcpListener,
    connections: Vec<Connection>,
    /// Something is left to do that no signal will announce.
    unfinished: bool,
    /// True after `accept` failed, for example for lack of file descriptors.
    accept_paused: bool,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Bytes that were read but not yet written, because the send buffer was full.
    pending: Vec<u8>,
    /// How many bytes of `pending` have been written since.
    offset: usize,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        // These signals are blocked, except during `sigsuspend`. So a signal that arrives after the
        // check of the flags stays pending, and ends the sleep at once. If it were not blocked, its
        // handler would run before the sleep, and nothing would end the sleep.
        let signals = [Signal::SIGIO, Signal::SIGALRM, Signal::SIGINT, Signal::SIGTERM];
        signals.into_iter().collect::<SigSet>().thread_block()?;
        // The handlers set these flags, and do nothing else. Pitfall: handler-prints
        let stop = stop_flag()?;
        let signaled = Arc::new(AtomicBool::new(false));
        flag::register(Signal::SIGIO as i32, Arc::clone(&signaled))?;
        flag::register(Signal::SIGALRM as i32, Arc::clone(&signaled))?;
        enable_sigio(&listener)?;
        announce(listener.local_addr()?);
        Server {
            listener,
            connections: Vec::new(),
            unfinished: true, // clients may have connected before `enable_sigio`
            accept_paused: false,
            buffer: vec![0; BUFFER_SIZE],
        }
        .serve(&signaled, &stop)
    })
}

impl Server {
    fn serve(&mut self, signaled: &AtomicBool, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            if signaled.swap(false, Ordering::Relaxed) {
                self.accept_some();
                self.try_connections();
            }
            if mem::take(&mut self.unfinished) {
                // (5) Data or connections may be left, and no further signal will announce them.
                // `raise` makes one: SIGIO is blocked now, so it stays pending, and `sigsuspend`
                // returns at once. (`sigsuspend` cannot be skipped: SIGINT and SIGTERM are unblocked
                // only while it runs.)
                raise(Signal::SIGIO)?;
            }
            if self.accept_paused {
                alarm::set(ACCEPT_RETRY.as_secs() as u32);
            }
            trace!("wait: sigsuspend"); // (1)
            SigSet::empty().suspend()?; // Pitfall: check-then-pause
            trace!("wait: sigsuspend = EINTR"); // (2): a signal handler has run
        }
        Ok(())
    }

    fn accept_some(&mut self) {
        self.accept_paused = false;
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer),
                Accepted::WouldBlock => return,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.accept_paused = true;
                    return;
                }
            }
        }
        self.unfinished = true;
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = enable_sigio(&stream) {
            // ENOMEM: the kernel has no memory for the registration.
            return warn!("{peer} refused: {error:#}");
        }
        // Data that arrived before `enable_sigio` raised no signal. `try_connections` runs next and
        // reads it.
        // Pitfall: before-o-async
        self.connections.push(Connection { stream, peer, pending: Vec::new(), offset: 0 });
    }

    fn try_connections(&mut self) {
        let count = self.connections.len();
        self.connections.retain_mut(|connection| {
            match connection.echo(&mut self.buffer) {
                Ok(Progress::Closed) => info!("{} disconnected", connection.peer),
                // A reset (ECONNRESET, EPIPE) or a timeout ends this connection only.
                Err(error) => info!("{} disconnected: {error}", connection.peer),
                Ok(progress) => {
                    self.unfinished |= matches!(progress, Progress::Echoed(_));
                    return true;
                }
            }
            false
        });
        // A connection has closed: `accept` may succeed now.
        self.unfinished |= self.accept_paused && self.connections.len() < count;
    }
}

impl Connection {
    /// Reads (3) and writes (4) until EAGAIN. Returns `Echoed` if `MAX_STEPS` ended the loop first.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<Progress> {
        let mut echoed = 0;
        for _ in 0..MAX_STEPS {
            if self.offset < self.pending.len() {
                let written = common::write(&self.stream, &self.pending[self.offset..])?;
                if written == 0 {
                    return Ok(Progress::WantWrite); // EAGAIN. SIGIO announces space.
                }
                self.offset += written;
                echoed += written;
                continue;
            }
            self.pending = Vec::new();
            self.offset = 0;
            let Some(count) = common::read(&self.stream, buffer)? else {
                return Ok(Progress::WantRead); // EAGAIN. SIGIO announces the next data.
            };
            if count == 0 {
                return Ok(Progress::Closed); // EOF. No output is pending here.
            }
            let written = common::write(&self.stream, &buffer[..count])?;
            self.pending.extend_from_slice(&buffer[written..count]);
            echoed += written;
        }
        Ok(Progress::Echoed(echoed))
    }
}
