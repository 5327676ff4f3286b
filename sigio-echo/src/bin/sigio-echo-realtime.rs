//! Signal-driven I/O with real-time signals: the signals queue, and each carries the file
//! descriptor of its socket. The process takes them from the queue one by one.
//!
//! ```text
//!      application                              kernel
//!      fcntl(8, F_SETSIG, SIGRTMIN) ─ once ──▶  send SIGRTMIN instead of SIGIO
//!      fcntl(8, F_SETOWN, pid) ─ once ───────▶  send it to this process
//!      fcntl(8, O_ASYNC) ─────── once ───────▶  for listener, 7, 8, 9 …
//!  (1) sigtimedwait ─────────────────────────▶  ┐
//!        asleep                                 │ wait: until something happens on a socket
//!  (2) SIGRTMIN, si_fd = 8 ◀─────────────────   ┘ a message for 8 has arrived
//!  (3) read(8), write(8) ────────────────────▶    copy
//!  (4) … until EAGAIN ───────────────────────▶    data that is left unread raises no signal
//! ```
//!
//! How a message travels: (1) The thread waits for the next signal. (2) It takes the signals that
//! are queued, and puts their file descriptors into a set, `ready`. (3) It reads and writes, up to
//! `MAX_STEPS` times per socket. (4) A socket stays in the set until EAGAIN. Before that, neither
//! unread data nor free space raises a signal. No handler runs: the signals are always blocked.
//!
//! The catch: the queue is limited (`RLIMIT_SIGPENDING`, shared by all processes of the user). (5)
//! If it is full, the kernel sends a plain SIGIO without a file descriptor, and the server has to
//! try every socket. And a signal can be out of date: by the time it is taken, the data may have
//! been read already, or its socket may be closed and the number given to a new connection. So a
//! signal only says where to try.
//!
//! Run: `cargo run -p sigio-echo --bin sigio-echo-realtime`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/sigio-echo-realtime.svg`.
//!
//! Use it when: you maintain a program that is older than epoll, which has replaced this.
//! Limits: Linux only. Taking each signal is a system call: with 64 busy connections 3.0
//! system calls per message (epoll-echo: 2.0) and the same CPU. Idle connections cost nothing
//! (docs/benchmarks: 64 active, what idle connections add).
//! Compare with: `diff sigio-echo/src/main.rs sigio-echo/src/bin/sigio-echo-realtime.rs` (which
//! socket), `diff epoll-echo/src/bin/epoll-echo-edge.rs sigio-echo/src/bin/sigio-echo-realtime.rs`
//! (the same loop, with events from epoll).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, Progress, accept, announce, listen, run};
use libc::{SIGINT, SIGIO, SIGTERM};
use log::{info, trace, warn};
use nix::sys::signal::{SigSet, Signal};
use sigio_echo::{
    discard_realtime_signals, enable_realtime_signals, next_signal, realtime_signals_and,
};

/// The most signals taken per iteration, so that a queue that fills quickly does not keep the
/// server from its sockets.
const MAX_EVENTS: usize = 256;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The most read/write steps per connection and iteration, so that it does not delay the others.
const MAX_STEPS: usize = 4;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    signals: SigSet,
    connections: BTreeMap<RawFd, Connection>,
    accept_pending: bool, // the listener may have connections that no signal will announce
    /// True after `accept` failed, for example for lack of file descriptors.
    accept_paused: bool,
    /// File descriptors that may have more to read or space to write.
    ready: BTreeSet<RawFd>,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    pending: Vec<u8>, // bytes that were read, and not yet written because the send buffer was full
    offset: usize,    // how many bytes of `pending` have been written since
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let signals = realtime_signals_and(&[Signal::SIGIO, Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?; // for good, so that they queue
        enable_realtime_signals(&listener)?;
        announce(listener.local_addr()?);
        Server {
            listener,
            signals,
            connections: BTreeMap::new(),
            accept_pending: true, // clients may have connected before that
            accept_paused: false,
            ready: BTreeSet::new(),
            buffer: vec![0; BUFFER_SIZE],
        }
        .serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let mut timeout = self.accept_paused.then_some(ACCEPT_RETRY);
            if !self.ready.is_empty() || self.accept_pending && !self.accept_paused {
                timeout = Some(Duration::ZERO); // (4)
            }
            trace!("wait: sigtimedwait"); // (1)
            for _ in 0..MAX_EVENTS {
                // The lowest number comes first: SIGTERM does not wait behind real-time signals.
                match next_signal(&self.signals, timeout)? {
                    None => break,
                    Some((SIGINT | SIGTERM, _)) => return Ok(()),
                    Some((SIGIO, _)) => self.on_overflow(), // (5)
                    Some((_, fd)) if fd == self.listener.as_raw_fd() => self.accept_pending = true,
                    Some((_, fd)) => {
                        self.ready.insert(fd); // (2)
                    }
                }
                timeout = Some(Duration::ZERO);
            }
            trace!("wait: sigtimedwait = {} ready", self.ready.len());
            for fd in std::mem::take(&mut self.ready) {
                self.on_ready(fd);
            }
            // Last: existing clients come first, and closed connections have freed descriptors.
            if self.accept_pending {
                self.accept_some();
            }
        }
    }

    /// Notes that signals were lost, because the queue was full: every socket may be ready (5).
    fn on_overflow(&mut self) {
        discard_realtime_signals(); // they have nothing to add
        self.ready.extend(self.connections.keys());
        self.accept_pending = true;
    }

    /// Echoes (3). The signal says only which socket to try: `read` and `write` return what is
    /// ready.
    fn on_ready(&mut self, fd: RawFd) {
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        match connection.echo(&mut self.buffer) {
            Ok(Progress::Echoed(_)) => {
                self.ready.insert(fd); // (4)
                return;
            }
            Ok(Progress::WantRead | Progress::WantWrite) => return, // a signal will announce it
            Ok(Progress::Closed) => info!("{} disconnected", connection.peer),
            // A reset (ECONNRESET, EPIPE) or a timeout ends this connection only.
            Err(error) => info!("{} disconnected: {error}", connection.peer),
        }
        self.connections.remove(&fd);
    }

    fn accept_some(&mut self) {
        self.accept_paused = false;
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer),
                Accepted::WouldBlock => {
                    self.accept_pending = false;
                    return;
                }
                Accepted::Pause => {
                    self.accept_paused = true; // Pitfalls: accept-spins, spare-descriptor
                    return;
                }
            }
        }
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = enable_realtime_signals(&stream) {
            return warn!("{peer} refused: {error:#}"); // ENOMEM
        }
        let fd = stream.as_raw_fd();
        self.connections.insert(fd, Connection { stream, peer, pending: Vec::new(), offset: 0 });
        self.ready.insert(fd); // it may have sent data before that. Pitfall: before-o-async
    }
}

impl Connection {
    /// Reads and writes (3) until EAGAIN (4). Returns `Echoed` if `MAX_STEPS` ended the loop first.
    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<Progress> {
        let mut echoed = 0;
        for _ in 0..MAX_STEPS {
            if self.offset < self.pending.len() {
                let written = common::write(&self.stream, &self.pending[self.offset..])?;
                if written == 0 {
                    return Ok(Progress::WantWrite); // EAGAIN. A signal announces space.
                }
                self.offset += written;
                echoed += written;
                continue;
            }
            self.pending = Vec::new();
            self.offset = 0;
            let count = match common::read(&self.stream, buffer)? {
                None => return Ok(Progress::WantRead), // EAGAIN. A signal announces the next data.
                Some(0) => return Ok(Progress::Closed), // EOF. No output is pending here.
                Some(count) => count,
            };
            let written = common::write(&self.stream, &buffer[..count])?;
            self.pending.extend_from_slice(&buffer[written..count]);
            echoed += written;
        }
        Ok(Progress::Echoed(echoed))
    }
}
