//! Mistake: several threads wait on one epoll instance with edge-triggered events, and nothing
//! makes sure that only one thread handles a connection.
//!
//! Symptom: under load, parts of a message come back in the wrong order. A protocol parser that two
//! threads enter for the same connection fails in stranger ways.
//!
//! Rule: EPOLLET wakes one thread per event, but each arrival of data is an event of its own. While
//! the first thread handles a connection, more data arrives, and a second thread is woken for the
//! same connection. EPOLLONESHOT prevents that: the next event is reported only when the first
//! thread has finished and has armed the connection again.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin edge-shared-by-threads`
//! 2. In a second terminal: `seq 1000000 | timeout 5 nc 127.0.0.1 7000 | sort -nc`. `sort` reports
//!    a line that is out of order.
//!
//! Correct: `reactor-chat/src/connection.rs` uses one-shot events, and a worker claims a connection
//! before it uses it. In `epoll-echo/src/bin/epoll-echo-edge.rs` only one thread waits on the epoll
//! instance.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use common::{ECHO_ADDR, read, run};
use nix::sys::epoll::{Epoll, EpollFlags};
use pitfalls::{event, lock, workers, write_all};

static CLIENTS: Mutex<BTreeMap<RawFd, Arc<TcpStream>>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| workers(&addr, add, on_ready))
}

fn add(epoll: &Epoll, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let fd = stream.as_raw_fd();
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET; // <- the mistake: no EPOLLONESHOT
    let mut clients = lock(&CLIENTS);
    epoll.add(&stream, event(interest, fd))?;
    clients.insert(fd, Arc::new(stream));
    Ok(())
}

fn on_ready(_: &Epoll, fd: RawFd) {
    let Some(stream) = lock(&CLIENTS).get(&fd).map(Arc::clone) else { return };
    let mut buffer = [0; 4096];
    loop {
        let count = match read(&stream, &mut buffer) {
            Ok(Some(count @ 1..)) => count,
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => break,
        };
        // Here another thread can read and write the next bytes of the same client.
        if write_all(&stream, &buffer[..count]).is_err() {
            break;
        }
    }
    lock(&CLIENTS).remove(&fd);
}
