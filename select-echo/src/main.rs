//! select: one thread hands the kernel two sets of sockets at each wait, and the kernel leaves
//! those that are ready in them.
//!
//! ```text
//!      application                              kernel
//!  (1) select({listener, stop, 7, 8 …}) ─────▶  ┐ goes through the sets, up to the highest,
//!        blocked                                │ wait: until one of the set is ready,
//!  (2) {8} ◀─────────────────────────────────   ┘ goes through the sets again
//!  (3) read(8) ──────────────────────────────▶  ┐ copy: it is there already,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy, as much as fits
//! ```
//!
//! A message: (1) the thread waits for all sockets at once; (2) the kernel overwrites the sets
//! with those that are ready, so they have to be made anew for the next call; (3) one read;
//! (4) one write. (5) What the write leaves is owed: from now on the wait is for writability,
//! until it is gone.
//!
//! Run: `cargo run -p select-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/select-echo.svg`.
//!
//! Use it when: some old system has nothing else, or for a handful of descriptors.
//! Limits: a set is a bitmap of 1024 bits (`FD_SETSIZE`): the connection whose *descriptor* is
//! 1024 or higher, however few are open, is refused: it is logged and closed. And each wait goes
//! through all connections, the idle ones too.
//! Compare with: `diff select-echo/src/main.rs poll-echo/src/main.rs` (a list instead of bitmaps).

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_socket,
};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: i64 = 100;

struct Server {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    /// The higher one of these two descriptors.
    own: RawFd,
    /// What the last `select` found ready.
    ready: Vec<RawFd>,
    connections: BTreeMap<RawFd, Connection>,
    /// Out of descriptors: the listener is not waited for, as it would be ready all the time.
    starved: bool,
    /// Where a step of the copy keeps its bytes: shared, for no connection leaves any in it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let own = listener.as_raw_fd().max(stop.as_raw_fd());
        let (ready, connections, buffer) = (Vec::new(), BTreeMap::new(), vec![0; BUFFER_SIZE]);
        Server { listener, stop, own, ready, connections, starved: false, buffer }.serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let (mut readable, mut writable) = (FdSet::new(), FdSet::new());
            readable.insert(self.stop.as_fd());
            if !self.starved {
                readable.insert(self.listener.as_fd());
            }
            for connection in self.connections.values() {
                // Pitfall: writable-left-armed
                let set =
                    if connection.has_pending_output() { &mut writable } else { &mut readable };
                set.insert(connection.as_fd());
            }
            // The kernel looks no further than the highest; the table is in the order of them.
            let highest = self.connections.keys().last().map_or(self.own, |&fd| fd.max(self.own));
            let mut timeout = self.starved.then(|| TimeVal::milliseconds(RETRY));
            trace!("wait: select"); // (1)
            match select(highest + 1, &mut readable, &mut writable, None, timeout.as_mut()) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => trace!("wait: select = {} ready", result?), // (2)
            }

            if readable.contains(self.stop.as_fd()) {
                return Ok(());
            }
            let incoming = readable.contains(self.listener.as_fd()) || self.starved;
            // The sets borrow the sockets that they name: note the ready ones, then change them.
            self.ready.clear();
            self.ready.extend(readable.fds(Some(highest)).map(|fd| fd.as_raw_fd()));
            self.ready.extend(writable.fds(Some(highest)).map(|fd| fd.as_raw_fd()));
            for index in 0..self.ready.len() {
                self.go_on(self.ready[index]);
            }
            if incoming {
                self.accept_some()?;
            }
        }
    }

    /// One step of the copy (3, 4). What the socket waits for then (5) is asked of it at (1).
    fn go_on(&mut self, fd: RawFd) {
        // No connection, where it is the listener that is ready.
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        let next = connection.step(&mut self.buffer);
        if next == Progress::Closed {
            self.connections.remove(&fd);
        }
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(Connection::new(stream, peer)?),
                Accepted::WouldBlock => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.starved = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, connection: Connection) {
        let fd = connection.as_raw_fd();
        // The descriptor counts, and not how many there are: `FD_SET` with a higher one writes
        // past the end of the set in C, and panics here. Pitfall: fd-setsize-by-count
        if fd < FD_SETSIZE as RawFd {
            self.connections.insert(fd, connection);
        } else {
            warn!("descriptor {fd} refused: a set ends at {FD_SETSIZE}");
        }
    }
}
