//! Mistake: a worker re-arms the one-shot event of a client that another worker is processing.
//!
//! Symptom: under load, lines arrive out of order, or two lines arrive as one.
//!
//! Rule: EPOLLONESHOT reports an event to one thread and disarms the file descriptor.
//! `EPOLL_CTL_MOD` arms it again. If that happens too early, the next event goes to a second thread
//! while the first one still processes its data.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin one-shot-rearmed`
//! 2. In two more terminals:
//!    `seq 1000000 | timeout 3 nc 127.0.0.1 7001 | tail -n +2 | cut -d' ' -f2- | sort -nc`. `sort`
//!    reports a line that is out of order.
//!
//! Correct: in `reactor-chat/src/connection.rs`, a connection is marked while a worker processes
//! it, and is not armed in the meantime.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{CHAT_ADDR, run};
use nix::sys::epoll::{Epoll, EpollFlags};
use pitfalls::{event, join, lock, take_lines, workers};

/// The most output that a client can have pending, in bytes.
const MAX_PENDING: usize = 256 * 1024;

/// A client's socket, name, unfinished line and pending output.
type Client = (Arc<TcpStream>, String, Vec<u8>, Vec<u8>);
static ROOM: Mutex<BTreeMap<RawFd, Client>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| workers(&addr, add, on_ready))
}

fn add(epoll: &Epoll, stream: TcpStream) -> io::Result<()> {
    let mut room = lock(&ROOM);
    let (_, name) = join(&stream, |_| stream.set_nonblocking(true))?;
    let fd = stream.as_raw_fd();
    epoll.add(&stream, event(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, fd))?;
    room.insert(fd, (Arc::new(stream), name, Vec::new(), Vec::new()));
    Ok(())
}

fn on_ready(epoll: &Epoll, own: RawFd) {
    let Some(stream) = lock(&ROOM).get(&own).map(|it| Arc::clone(&it.0)) else { return };
    let mut buffer = [0; 512];
    let read = common::read(&stream, &mut buffer).unwrap_or(Some(0));
    // Stands for the processing. Meanwhile another worker can read the next bytes of this client
    // and finish earlier.
    thread::sleep(Duration::from_micros(read.unwrap_or(0) as u64));
    let mut room = lock(&ROOM);
    let Some((_, name, unfinished, _)) = room.get_mut(&own) else { return };
    let lines = take_lines(name, unfinished, &buffer[..read.unwrap_or(0)]);
    room.retain(|&fd, (stream, _, _, pending)| {
        if fd == own {
            let written = common::write(stream, pending).unwrap_or(0);
            pending.drain(..written);
        } else if lines.is_empty() {
            return true;
        } else {
            pending.extend(&lines);
        }
        let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
        interest.set(EpollFlags::EPOLLOUT, !pending.is_empty());
        let _ = epoll.modify(&**stream, &mut event(interest, fd)); // <- the mistake, if not `own`
        pending.len() < MAX_PENDING && (fd != own || read != Some(0))
    });
}
