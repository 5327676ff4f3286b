//! Mistake: the listener is blocking, because the server calls `accept` only after `select` or
//! `poll` has reported it as readable.
//!
//! Symptom: now and then a thread hangs in `accept`, and its clients get no replies until the next
//! client connects.
//!
//! Rule: `select` and `poll` report the state at the time of the call. Before the server acts on
//! it, another thread or process can take the connection or the data, or the kernel can discard it
//! (select(2), "BUGS"). A call on a blocking socket then sleeps. So every socket behind `select`,
//! `poll` or `epoll_wait` has to be non-blocking.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin blocking-behind-select`
//! 2. In each of three more terminals: `nc 127.0.0.1 7000`. After each new connection, enter a line
//!    in every terminal. By the third client at the latest, one gets no reply.
//!
//! Correct: `main` in `select-echo/src/main.rs` makes the listener non-blocking, and
//! `Connection::new` in `common/src/connection.rs` does it for each connection.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, exit_on_stop, listen,
    run,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pitfalls::ACCEPT_RETRY;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?; // <- the mistake: it stays blocking
        exit_on_stop()?;
        let duplicate = listener.try_clone()?;
        thread::Builder::new().spawn(move || serve(&duplicate))?;
        announce(listener.local_addr()?);
        serve(&listener)
    })
}

/// Runs in two threads. Each has connections of its own.
fn serve(listener: &TcpListener) -> anyhow::Result<()> {
    let mut connections: BTreeMap<RawFd, Connection> = BTreeMap::new();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let mut watched = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        for connection in connections.values() {
            let pending = connection.has_pending_output();
            let interest = if pending { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            watched.push(PollFd::new(connection.as_fd(), interest));
        }
        let _ = poll(&mut watched, PollTimeout::NONE); // after EINTR, none is ready
        thread::sleep(Duration::from_millis(1)); // stands for any work here
        let ready = watched.iter().filter(|entry| entry.any() == Some(true));
        let ready: Vec<RawFd> = ready.map(|entry| entry.as_fd().as_raw_fd()).collect();
        for fd in ready {
            if let Some(connection) = connections.get_mut(&fd) {
                if connection.step(&mut buffer) == Progress::Closed {
                    connections.remove(&fd);
                }
                continue;
            }
            match accept(listener) {
                Accepted::Connection(stream, peer) => {
                    connections.insert(stream.as_raw_fd(), Connection::new(stream, peer)?);
                }
                Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    }
}
