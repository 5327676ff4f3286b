//! Mistake: several workers, one-shot events, and whoever has a line for a client registers it
//! again.
//!
//! Seen: under load lines come out of order, or two of them in one.
//!
//! Rule: `EPOLLONESHOT` gives an event to one thread, until somebody registers the descriptor
//! again: then the next event goes to another thread, even while the first one still works on
//! its own.
//!
//! Show: `cargo run -p pitfalls --bin one-shot-rearmed`, then twice `seq 1000000 | nc 127.0.0.1
//! 7001 | cut -d' ' -f2- | sort -nc`: it names a line that came too early.
//!
//! Right: `Interest` in `reactor-chat/src/connection.rs`: `held` while a worker has the client
//! in hand, and nothing is registered meanwhile.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use common::{Accepted, CHAT_ADDR, accept, exit_on_stop, listen, run};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use pitfalls::{event, lines, lock, welcome};

/// A client's socket and name, its unfinished line, and what it is owed.
type Room = BTreeMap<RawFd, (Arc<TcpStream>, String, Vec<u8>, Vec<u8>)>;
static ROOM: Mutex<Room> = Mutex::new(Room::new());
static EPOLL: LazyLock<Epoll> =
    LazyLock::new(|| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a descriptor"));

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| {
        exit_on_stop()?;
        let listener = listen(&addr)?;
        (0..4).for_each(|_| drop(thread::spawn(work)));
        while let Accepted::Connection(stream, _) = accept(&listener)? {
            let (fd, mut room) = (stream.as_raw_fd(), lock(&ROOM));
            let (_, name) = welcome(&stream, |_| stream.set_nonblocking(true))?;
            EPOLL.add(&stream, event(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, fd))?;
            room.insert(fd, (Arc::new(stream), name, Vec::new(), Vec::new()));
        }
        anyhow::bail!("out of descriptors")
    })
}

fn work() {
    let (mut events, mut buffer) = ([EpollEvent::empty()], [0; 512]);
    loop {
        let _ = EPOLL.wait(&mut events, EpollTimeout::NONE); // EINTR: the last one once more
        let own = events[0].data() as RawFd;
        let Some(stream) = lock(&ROOM).get(&own).map(|it| Arc::clone(&it.0)) else { continue };
        let read = (&*stream).read(&mut buffer);
        // Another worker may have the next bytes of this client, and be the first to go on.
        let mut room = lock(&ROOM);
        let Some((_, name, unfinished, _)) = room.get_mut(&own) else { continue };
        let said = lines(name, unfinished, &buffer[..*read.as_ref().unwrap_or(&0)]);
        for (&fd, (stream, _, _, owed)) in &mut *room {
            if fd == own {
                let sent = (&**stream).write(owed).unwrap_or(0);
                owed.drain(..sent);
            } else if said.is_empty() {
                continue;
            } else {
                owed.extend(&said); // and the mistake follows: `fd` may be in a worker's hands
            }
            let mut interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
            interest.set(EpollFlags::EPOLLOUT, !owed.is_empty());
            let _ = EPOLL.modify(&**stream, &mut event(interest, fd));
        }
        if read.is_ok_and(|count| count == 0) {
            room.remove(&own);
        }
    }
}
