//! poll: each wait passes a list of sockets to the kernel, and the kernel marks in it the sockets
//! that are ready.
//!
//! ```text
//!      application                              kernel
//!  (1) poll([listener, stop, 7, 8, 9 …]) ────▶  ┐ checks all sockets of the list,
//!        asleep                                 │ wait: until a socket of the list is ready,
//!  (2) 1, and 8 is marked ◀──────────────────   ┘ checks all of them again
//!  (3) read(8) ──────────────────────────────▶  ┐ copy: the data is already there,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy: as much as the send buffer takes
//! ```
//!
//! How a message travels: (1) One thread waits for all sockets at once. (2) The kernel returns how
//! many sockets are ready and marks them in `revents`, so the server searches the whole list for
//! them. (3) The server reads once and (4) writes once. (5) Bytes that the socket does not take are
//! pending output. Until they are written, the server watches this socket for writing and not for
//! reading. The server reads only while nothing is pending. So at EOF nothing is pending, and the
//! server closes the connection.
//!
//! The catch: one thread serves all ready sockets one after the other, so a slow step delays the
//! rest. A step is therefore short: at most one write of pending output, one read, and one write.
//!
//! Run: `cargo run -p poll-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/poll-echo.svg`.
//!
//! Use it when: you have some dozens of file descriptors of any kind, and want to run on every
//! Unix.
//! Limits: each wait costs time for every connection, idle or not.
//! Compare with:
//! - `diff select-echo/src/main.rs poll-echo/src/main.rs`: a list instead of bitmaps.
//! - `diff poll-echo/src/main.rs epoll-echo/src/main.rs`: with poll, the process keeps the list of
//!   sockets; with epoll, the kernel does.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_socket,
};
use libc::{POLLIN, POLLOUT, pollfd};
use log::{trace, warn};
use nix::errno::Errno;

/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Time until `poll` is tried again after it failed.
const WAIT_RETRY: Duration = Duration::from_millis(100);

struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    /// The argument of `poll`: the listener, `stop`, then each connection. The kernel writes only
    /// to the field `revents` of each entry, so the same list is used for every call.
    list: Vec<pollfd>,
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
        stop.set_nonblocking(true)?; // it is read after `poll` has failed
        let list = vec![entry(POLLIN, listener.as_raw_fd()), entry(POLLIN, stop.as_raw_fd())];
        let mut server = Server {
            listener,
            stop,
            list,
            connections: BTreeMap::new(),
            accept_paused: false,
            buffer: vec![0; BUFFER_SIZE],
        };
        announce(address);
        server.serve()
    })
}

fn entry(events: i16, fd: RawFd) -> pollfd {
    pollfd { fd, events, revents: 0 }
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut wait_failed = false;
        loop {
            // While accepting is paused, the listener (the first entry) is not watched.
            self.list[0].events = if self.accept_paused { 0 } else { POLLIN };
            let timeout = self.accept_paused.then_some(ACCEPT_RETRY);
            trace!("wait: poll"); // (1)
            match poll(&mut self.list, timeout) {
                Ok(count) => {
                    wait_failed = false;
                    trace!("wait: poll = {count} ready"); // (2)
                }
                // A signal handler ran. SA_RESTART has no effect on this call (signal(7)).
                // Pitfall: eintr-fatal
                Err(Errno::EINTR) => continue,
                // The kernel has no memory for its copy of the list (ENOMEM), or another
                // process has lowered RLIMIT_NOFILE below the length of the list (EINVAL). The server
                // continues as if all sockets were ready. Trying all of them is safe, because no call blocks.
                Err(error @ (Errno::ENOMEM | Errno::EINVAL)) => {
                    if !wait_failed {
                        warn!("poll: {error}; trying all sockets every {WAIT_RETRY:?}");
                    }
                    wait_failed = true;
                    thread::sleep(WAIT_RETRY);
                    for entry in &mut self.list {
                        entry.revents = entry.events;
                    }
                }
                Err(error) => return Err(error).context("poll"),
            }

            let mut listener_ready = false;
            // Backwards: `swap_remove` moves the last entry to the place of the removed one, and
            // the loop has visited that entry already.
            for index in (0..self.list.len()).rev() {
                let pollfd { fd, revents, .. } = self.list[index];
                if revents == 0 {
                    continue;
                }
                if fd == self.stop.as_raw_fd() {
                    // After a failure, the mark of `stop` proves nothing. Only a read shows whether
                    // a signal has arrived.
                    if !wait_failed || self.stop.read(&mut [0]).is_ok() {
                        return Ok(()); // dropping the server closes all sockets, and the process ends
                    }
                } else if fd == self.listener.as_raw_fd() {
                    listener_ready = true;
                } else {
                    // Readable, writable, error or hang-up: the next read or write shows which.
                    self.on_ready(index);
                }
            }
            // Last: existing clients come first, and closed connections have freed descriptors.
            if listener_ready || self.accept_paused {
                self.accept_some()?;
            }
        }
    }

    /// Reads and writes (3, 4). Then sets the events for the next wait (5).
    fn on_ready(&mut self, index: usize) {
        let fd = self.list[index].fd;
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        if connection.step(&mut self.buffer) == Progress::Closed {
            self.list.swap_remove(index);
            // Dropping the connection closes its only file descriptor.
            self.connections.remove(&fd);
            return;
        }
        // While output is pending, watch POLLOUT and not POLLIN: unread input would make every wait
        // return at once. Otherwise do not watch POLLOUT: an idle socket is always writable.
        // Pitfall: writable-left-armed
        let is_pending = connection.has_pending_output();
        self.list[index].events = if is_pending { POLLOUT } else { POLLIN };
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
        self.connections.insert(fd, Connection::new(stream, peer)?);
        self.list.push(entry(POLLIN, fd));
        Ok(())
    }
}

/// Calls poll(2). (The wrapper of nix takes a list that borrows the sockets, so that the server
/// would have to build a new list for each call.)
fn poll(list: &mut [pollfd], timeout: Option<Duration>) -> nix::Result<i32> {
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i32); // -1: no timeout
    // SAFETY: the pointer and the length are those of one slice, and `poll` keeps neither.
    Errno::result(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout) })
}
