//! Mistake: `select`, and a guard that counts the clients, not their descriptors.
//!
//! Seen: at about the thousandth client the server ends, or in C: writes past the end of the
//! set, into whatever lies there.
//!
//! Rule: an `fd_set` has one bit for each *number* below `FD_SETSIZE`, 1024. Listener, log and
//! whatever else is open have numbers too, so that there are fewer clients than numbers.
//!
//! Show: `cargo run -p pitfalls --bin fd-setsize-by-count`, then `for i in $(seq 1030); do
//! (sleep 60 | nc 127.0.0.1 7000 &) done` (and `ulimit -n 4096` before both).
//!
//! Right: `Server::add` in `select-echo/src/main.rs`: `fd < FD_SETSIZE`.

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
        exit_on_stop()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let mut connections: BTreeMap<RawFd, Connection> = BTreeMap::new();
        let (mut buffer, mut starved) = (vec![0; BUFFER_SIZE], false);
        loop {
            let (mut readable, mut writable) = (FdSet::new(), FdSet::new());
            if !starved {
                readable.insert(listener.as_fd());
            }
            for connection in connections.values() {
                let set =
                    if connection.has_pending_output() { &mut writable } else { &mut readable };
                set.insert(connection.as_fd()); // here it panics
            }
            let mut timeout = starved.then(|| TimeVal::milliseconds(100));
            if select(None, &mut readable, &mut writable, None, timeout.as_mut()).is_err() {
                continue; // EINTR
            }
            let incoming = starved || readable.contains(listener.as_fd());
            let ready = readable.fds(None).chain(writable.fds(None)).map(|fd| fd.as_raw_fd());
            for fd in ready.collect::<Vec<_>>() {
                let next = connections.get_mut(&fd).map(|it| it.step(&mut buffer));
                if next == Some(Progress::Closed) {
                    connections.remove(&fd);
                }
            }
            let accepted = if incoming { accept(&listener) } else { Accepted::WouldBlock };
            starved = matches!(accepted, Accepted::Pause);
            if let Accepted::Connection(stream, peer) = accepted {
                let fd = stream.as_raw_fd();
                if connections.len() < FD_SETSIZE {
                    // <- the mistake
                    connections.insert(fd, Connection::new(stream, peer)?);
                } else {
                    warn!("descriptor {fd} refused: a set ends at {FD_SETSIZE}");
                }
            }
        }
    })
}
