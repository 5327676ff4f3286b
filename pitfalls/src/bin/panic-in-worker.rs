//! Mistake: a panic in a worker thread ends only that thread.
//!
//! Symptom: one client after another gets no replies. In the end no client does, but the server
//! still accepts connections, and a supervisor considers it healthy.
//!
//! Rule: a panic unwinds one thread. The other threads do not notice. What the thread was
//! responsible for stays undone: here a one-shot event is never armed again, and there is one
//! worker fewer. Data behind a mutex can be left half changed, and its lock poisoned.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin panic-in-worker`
//! 2. In a second terminal:
//!    `for i in {1..4}; do printf '\377%.0s' {1..8} | timeout 1 nc 127.0.0.1 7000; done`
//! 3. `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: `run` in `common/src/start.rs` installs a hook that ends the process. Clients see that
//! their connections are closed, and a supervisor restarts the server.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::panic;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use common::{ECHO_ADDR, read, run};
use nix::sys::epoll::{Epoll, EpollFlags};
use pitfalls::{event, lock, workers, write_all};

static CLIENTS: Mutex<BTreeMap<RawFd, Arc<TcpStream>>> = Mutex::new(BTreeMap::new());
const INTEREST: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLONESHOT);

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        drop(panic::take_hook()); // <- the mistake: this restores the default
        workers(&addr, add, on_ready)
    })
}

fn add(epoll: &Epoll, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let fd = stream.as_raw_fd();
    let mut clients = lock(&CLIENTS);
    epoll.add(&stream, event(INTEREST, fd))?;
    clients.insert(fd, Arc::new(stream));
    Ok(())
}

fn on_ready(epoll: &Epoll, fd: RawFd) {
    let Some(stream) = lock(&CLIENTS).get(&fd).map(Arc::clone) else { return };
    if process(&stream).is_ok_and(|keep| keep) {
        let _ = epoll.modify(&*stream, &mut event(INTEREST, fd));
    } else {
        lock(&CLIENTS).remove(&fd);
    }
}

fn process(stream: &TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let Some(count) = read(stream, &mut buffer)? else { return Ok(true) };
    // Stands for any bug that one particular input reaches.
    assert!(!buffer.starts_with(&[0xff; 8]), "not implemented");
    write_all(stream, &buffer[..count])?;
    Ok(count > 0)
}
