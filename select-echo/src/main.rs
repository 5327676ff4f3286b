//! select: each wait passes two sets of sockets to the kernel, and the kernel removes from them the
//! sockets that are not ready.
//!
//! ```text
//!      application                              kernel
//!  (1) select({listener, stop, 7, 8 …}) ─────▶  ┐ checks all sockets of the sets,
//!        asleep                                 │ wait: until a socket of the sets is ready,
//!  (2) {8} ◀─────────────────────────────────   ┘ checks all of them again
//!  (3) read(8) ──────────────────────────────▶  ┐ copy: the data is already there,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy: as much as the send buffer takes
//! ```
//!
//! How a message travels: (1) One thread waits for all sockets at once. (2) The kernel leaves only
//! the ready sockets in the sets, so the server builds new sets for the next wait. (3) The server
//! reads once and (4) writes once. (5) Bytes that the socket does not take are pending output.
//! Until they are written, the server watches this socket for writing and not for reading. The
//! server reads only while nothing is pending. So at EOF nothing is pending, and the server closes
//! the connection.
//!
//! The catch: one thread serves all ready sockets one after the other, so a slow step delays the
//! rest. A step is therefore short: at most one write of pending output, one read, and one write.
//!
//! Run: `cargo run -p select-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/select-echo.svg`.
//!
//! Use it when: a system has nothing better, or there is only a handful of file descriptors.
//! Limits: a set is a bitmap of 1024 bits (`FD_SETSIZE`). This is a limit of the C library, not of
//! the kernel, and it applies to the *number* of a file descriptor, however few are open. A
//! connection whose number is 1024 or higher is refused and logged. Each wait costs time for every
//! connection, idle or not.
//! Compare with:
//! - `diff select-echo/src/main.rs poll-echo/src/main.rs`: a list instead of bitmaps.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_socket,
};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Time until `select` is tried again after it failed.
const WAIT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    connections: BTreeMap<RawFd, Connection>,
    /// True after `accept` failed, for example for lack of file descriptors. The listener is then
    /// not watched, because the connections in its queue would end every wait at once.
    accept_paused: bool,
    /// The read buffer. All connections share it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        // A connection can make the listener ready and be gone before `accept` is called. A
        // blocking `accept` would then sleep (accept(2), "NOTES").
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        stop.set_nonblocking(true)?; // it is read after `select` has failed
        let highest = listener.as_raw_fd().max(stop.as_raw_fd());
        ensure!(fits(highest), "file descriptor {highest} is too high for select");
        let mut server = Server {
            listener,
            stop,
            connections: BTreeMap::new(),
            accept_paused: false,
            buffer: vec![0; BUFFER_SIZE],
        };
        announce(address);
        server.serve()
    })
}

/// Returns whether a set has a bit for this file descriptor. `FdSet::insert` panics if not. In C,
/// `FD_SET` writes past the end of the set, or aborts the process if it was compiled with
/// `_FORTIFY_SOURCE`. The number of connections does not matter. Pitfall: fd-setsize-by-count
fn fits(fd: RawFd) -> bool {
    fd < FD_SETSIZE as RawFd
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut ready: Vec<RawFd> = Vec::new();
        let mut wait_failed = false;
        loop {
            let mut readable = FdSet::new();
            let mut writable = FdSet::new();
            readable.insert(self.stop.as_fd());
            if !self.accept_paused {
                readable.insert(self.listener.as_fd());
            }
            for connection in self.connections.values() {
                // While output is pending, watch for writing and not for reading: unread input
                // would make every wait return at once. Otherwise do not watch for writing: an idle
                // socket is always writable. Pitfall: writable-left-armed
                let is_pending = connection.has_pending_output();
                let set = if is_pending { &mut writable } else { &mut readable };
                set.insert(connection.as_fd());
            }
            // `select` checks only numbers below its first argument. The map is sorted by number.
            let mut highest = self.listener.as_raw_fd().max(self.stop.as_raw_fd());
            if let Some((&fd, _)) = self.connections.last_key_value() {
                highest = highest.max(fd);
            }
            let retry = TimeVal::milliseconds(ACCEPT_RETRY.as_millis() as i64);
            let mut timeout = self.accept_paused.then_some(retry);
            trace!("wait: select"); // (1)
            match select(highest + 1, &mut readable, &mut writable, None, timeout.as_mut()) {
                Ok(count) => {
                    wait_failed = false;
                    // (2) `trace!` evaluates its arguments only if tracing is on, so they must not
                    // contain a `?`.
                    // Pitfall: question-mark-in-log
                    trace!("wait: select = {count} ready");
                }
                // A signal handler ran. SA_RESTART has no effect on this call (signal(7)).
                // Pitfall: eintr-fatal
                Err(Errno::EINTR) => continue,
                // The kernel has no memory for its copy of the sets. The sets are then unchanged,
                // and every watched socket looks ready. Trying all of them is safe, because no call
                // blocks.
                Err(error @ Errno::ENOMEM) => {
                    if !wait_failed {
                        warn!("select: {error}; trying all sockets every {WAIT_RETRY:?}");
                    }
                    wait_failed = true;
                    thread::sleep(WAIT_RETRY);
                }
                Err(error) => return Err(error).context("select"),
            }

            // After a failure, the bit of `stop` is always set. Only a read shows whether a signal
            // has arrived.
            if readable.contains(self.stop.as_fd())
                && (!wait_failed || (&self.stop).read(&mut [0]).is_ok())
            {
                return Ok(()); // dropping the server closes all sockets, and the process ends
            }
            let listener_ready = readable.contains(self.listener.as_fd());
            // The sets borrow the connections, which `on_ready` changes: copy the numbers first.
            ready.clear();
            ready.extend(readable.fds(Some(highest)).map(|fd| fd.as_raw_fd()));
            ready.extend(writable.fds(Some(highest)).map(|fd| fd.as_raw_fd()));
            for &fd in &ready {
                self.on_ready(fd);
            }
            // Last: existing clients come first, and closed connections have freed descriptors.
            if listener_ready || self.accept_paused {
                self.accept_some()?;
            }
        }
    }

    /// Reads and writes (3, 4). `serve` builds the next sets from `has_pending_output` (5).
    fn on_ready(&mut self, fd: RawFd) {
        // The listener and `stop` have no connection.
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        if connection.step(&mut self.buffer) == Progress::Closed {
            // Dropping the connection closes its only file descriptor.
            self.connections.remove(&fd);
        }
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.accept_paused = false;
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
                Accepted::WouldBlock => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.accept_paused = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        let fd = stream.as_raw_fd();
        if fits(fd) {
            self.connections.insert(fd, Connection::new(stream, peer)?);
        } else {
            warn!("{peer} refused: file descriptor {fd} is too high for select");
        }
        Ok(())
    }
}
