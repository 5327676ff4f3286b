//! Mistake: several workers, one-shot events, and whoever has a line for a client registers it
//! again.
//!
//! Seen: under load lines come out of order, or two of them in one.
//!
//! Rule: `EPOLLONESHOT` gives an event to one thread, until somebody registers the descriptor
//! again: then the next event goes to another thread, even while the first one still works on
//! its own.
//!
//! Show: `cargo run -p pitfalls --bin one-shot-rearmed`, then twice `seq 1000000 | timeout 3 nc
//! 127.0.0.1 7001 | tail -n +2 | cut -d' ' -f2- | sort -nc`: it names a line that came too
//! early, or two in one.
//!
//! Right: `Interest` in `reactor-chat/src/connection.rs`: `held` while a worker has the client
//! in hand, and nothing is registered meanwhile.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::chat::BOUND;
use common::{CHAT_ADDR, run};
use nix::sys::epoll::{Epoll, EpollFlags};
use pitfalls::{event, lines, lock, unless_it_blocks, welcome, workers};

/// A client's socket and name, its unfinished line, and what it is owed.
type Room = BTreeMap<RawFd, (Arc<TcpStream>, String, Vec<u8>, Vec<u8>)>;
static ROOM: Mutex<Room> = Mutex::new(Room::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| workers(&addr, enter, go_on))
}

fn enter(epoll: &Epoll, stream: TcpStream) -> io::Result<()> {
    let (fd, mut room) = (stream.as_raw_fd(), lock(&ROOM));
    let (_, name) = welcome(&stream, |_| stream.set_nonblocking(true))?;
    epoll.add(&stream, event(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, fd))?;
    room.insert(fd, (Arc::new(stream), name, Vec::new(), Vec::new()));
    Ok(())
}

/// A worker has an event of `own`: nobody else has one before it is registered again.
fn go_on(epoll: &Epoll, own: RawFd) {
    let Some(stream) = lock(&ROOM).get(&own).map(|it| Arc::clone(&it.0)) else { return };
    let mut buffer = [0; 512];
    let read = unless_it_blocks((&*stream).read(&mut buffer)).unwrap_or(Some(0));
    // Handling takes its time, or there would be no need of workers. And meanwhile another one may
    // have the next bytes of this client, and be done with them earlier.
    thread::sleep(Duration::from_micros(read.unwrap_or(0) as u64));
    let mut room = lock(&ROOM);
    let Some((_, name, unfinished, _)) = room.get_mut(&own) else { return };
    let said = lines(name, unfinished, &buffer[..read.unwrap_or(0)]);
    room.retain(|&fd, (stream, _, _, owed)| {
        if fd == own {
            owed.drain(..(&**stream).write(owed).unwrap_or(0));
        } else if said.is_empty() {
            return true;
        } else {
            owed.extend(&said);
        }
        let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
        interest.set(EpollFlags::EPOLLOUT, !owed.is_empty());
        let _ = epoll.modify(&**stream, &mut event(interest, fd)); // <- the mistake, if not `own`
        owed.len() < BOUND && (fd != own || read != Some(0))
    });
}
