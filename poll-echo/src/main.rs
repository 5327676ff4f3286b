//! poll: one thread hands the kernel the list of its sockets at each wait, and finds those that
//! are ready marked in it.
//!
//! ```text
//!      application                              kernel
//!  (1) poll([listener, stop, 7, 8, 9 …]) ────▶  ┐ goes through the whole list,
//!        blocked                                │ wait: until one of them is ready,
//!  (2) 1: look through the list for it ◀─────   ┘ goes through the whole list again
//!  (3) read(8) ──────────────────────────────▶  ┐ copy: it is there already,
//!        6 bytes ◀───────────────────────────   ┘ so the read does not block
//!  (4) write(8) ─────────────────────────────▶    copy, as much as fits
//! ```
//!
//! A message: (1) the thread waits for all sockets at once; (2) the kernel says how many are
//! ready, and `revents` says which: both sides go through the whole list each time; (3) one read;
//! (4) one write. (5) What the write leaves is owed: from now on the wait is for writability,
//! until it is gone.
//!
//! Run: `cargo run -p poll-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/poll-echo.svg`.
//!
//! Use it when: you have some dozens of descriptors of any kind, and want to run on every Unix.
//! Limits: each wait goes through all connections, the idle ones too.
//! Compare with: `diff select-echo/src/main.rs poll-echo/src/main.rs` (a list instead of bitmaps),
//! `diff poll-echo/src/main.rs epoll-echo/src/main.rs` (who keeps the list).

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
    stop_socket,
};
use libc::{POLLIN, POLLOUT, pollfd};
use log::trace;
use nix::errno::Errno;

/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Milliseconds until `accept` is tried again while descriptors are short.
const RETRY: i32 = 100;
/// `poll` waits for as long as it takes.
const FOREVER: i32 = -1;

struct Server {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    /// What `poll` is asked, and its answers: the listener, `stop`, then each connection. The
    /// kernel writes only to `revents`, so the list can be kept from one call to the next.
    list: Vec<pollfd>,
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
        let list = vec![entry(POLLIN, listener.as_raw_fd()), entry(POLLIN, stop.as_raw_fd())];
        let (connections, buffer) = (BTreeMap::new(), vec![0; BUFFER_SIZE]);
        Server { listener, stop, list, connections, starved: false, buffer }.serve()
    })
}

fn entry(events: i16, fd: RawFd) -> pollfd {
    pollfd { fd, events, revents: 0 }
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            self.list[0].events = if self.starved { 0 } else { POLLIN };
            let timeout = if self.starved { RETRY } else { FOREVER };
            trace!("wait: poll"); // (1)
            let ready = match poll(&mut self.list, timeout) {
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                result => result?,
            };
            trace!("wait: poll = {ready} ready"); // (2)

            let mut incoming = self.starved;
            // Backwards: `swap_remove` fills the place of one that goes with one already seen.
            for index in (0..self.list.len()).rev() {
                match self.list[index] {
                    pollfd { revents: 0, .. } => {}
                    pollfd { fd, .. } if fd == self.stop.as_raw_fd() => return Ok(()),
                    pollfd { fd, .. } if fd == self.listener.as_raw_fd() => incoming = true,
                    _ => self.go_on(index),
                }
            }
            if incoming {
                self.accept_some()?;
            }
        }
    }

    /// One step of the copy (3, 4), and what it says the socket waits for now (5).
    fn go_on(&mut self, index: usize) {
        let fd = self.list[index].fd;
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        let next = connection.step(&mut self.buffer);
        if next == Progress::Closed {
            self.list.swap_remove(index);
            self.connections.remove(&fd);
        } else {
            // Pitfall: writable-left-armed
            self.list[index].events =
                if connection.has_pending_output() { POLLOUT } else { POLLIN };
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
        self.list.push(entry(POLLIN, fd));
        self.connections.insert(fd, connection);
    }
}

/// poll(2), for which nix has a wrapper whose list borrows the sockets: safe, but the list would
/// have to be made anew for each call.
fn poll(list: &mut [pollfd], timeout: i32) -> nix::Result<i32> {
    // SAFETY: the pointer and the length are those of one slice, and `poll` keeps neither.
    Errno::result(unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout) })
}
