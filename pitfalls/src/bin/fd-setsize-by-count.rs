//! Mistake: a server that uses `select` limits the number of clients, not the value of the file
//! descriptor.
//!
//! Symptom: the server ends at about the thousandth client. A server in C writes past the end of
//! the set and corrupts memory, or is aborted if it was built with `_FORTIFY_SOURCE`.
//!
//! Rule: an `fd_set` has one bit for each file descriptor below `FD_SETSIZE`, which is 1024 in
//! glibc. The listener, stderr and other open files use numbers too. So fewer than 1024 clients
//! fit.
//!
//! Reproduce:
//! 1. `cargo build -p pitfalls`, then `ulimit -n 4096` and
//!    `cargo run -p pitfalls --bin fd-setsize-by-count`
//! 2. In a second terminal: `for i in $(seq 1030); do (sleep 60 | nc 127.0.0.1 7000 &) done`. The
//!    server panics.
//!
//! Correct: `add` in `select-echo/src/main.rs` compares the file descriptor with `FD_SETSIZE`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::ExitCode;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, exit_on_stop, listen,
    run,
};
use log::warn;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        let mut connections: BTreeMap<RawFd, Connection> = BTreeMap::new();
        let mut buffer = vec![0; BUFFER_SIZE];
        let mut accept_paused = false;
        loop {
            let mut readable = FdSet::new();
            let mut writable = FdSet::new();
            if !accept_paused {
                readable.insert(listener.as_fd());
            }
            for connection in connections.values() {
                let pending = connection.has_pending_output();
                let set = if pending { &mut writable } else { &mut readable };
                set.insert(connection.as_fd()); // panics for a file descriptor beyond the set
            }
            let mut timeout = accept_paused.then(|| TimeVal::milliseconds(100));
            if select(None, &mut readable, &mut writable, None, timeout.as_mut()).is_err() {
                continue; // EINTR
            }
            let listener_ready = accept_paused || readable.contains(listener.as_fd());
            let ready = readable.fds(None).chain(writable.fds(None)).map(|fd| fd.as_raw_fd());
            for fd in ready.collect::<Vec<_>>() {
                let Some(connection) = connections.get_mut(&fd) else { continue };
                if connection.step(&mut buffer) == Progress::Closed {
                    connections.remove(&fd);
                }
            }
            let accepted = if listener_ready { accept(&listener) } else { Accepted::WouldBlock };
            accept_paused = matches!(accepted, Accepted::Pause);
            let Accepted::Connection(stream, peer) = accepted else { continue };
            if connections.len() < FD_SETSIZE {
                // <- the mistake: it is `stream.as_raw_fd()` that has to be below FD_SETSIZE
                connections.insert(stream.as_raw_fd(), Connection::new(stream, peer)?);
            } else {
                warn!("{peer} refused: {FD_SETSIZE} clients are connected");
            }
        }
    })
}
