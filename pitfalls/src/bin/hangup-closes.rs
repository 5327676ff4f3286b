//! Mistake: `EPOLLRDHUP` is taken for "the client is gone", and the connection is closed.
//!
//! Seen: a client that sends its request and then its FIN, as `nc -N` does, gets no answer, or
//! a part.
//!
//! Rule: `EPOLLRDHUP` says that the peer will send no more; it may well read, and what it sent
//! before may still be unread here. (`EPOLLHUP` is when both directions are down.)
//!
//! Show: `cargo run -p pitfalls --bin hangup-closes`, Ctrl-Z; `echo hello | nc -N 127.0.0.1
//! 7000` in another terminal; and `fg`: data and FIN are both there when the server looks, and
//! nothing comes back.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: it closes at the end of what it
//! reads, which comes after all that was sent, and when nothing is owed.

use std::os::fd::AsRawFd;
use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, event};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        epoll(&addr, interest, Connection::new, |epoll, connection, news| {
            if news.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP) {
                return Ok(false); // <- the mistake
            }
            let next = connection.step(&mut buffer);
            let interest =
                if connection.has_pending_output() { EpollFlags::EPOLLOUT } else { interest };
            epoll.modify(&*connection, &mut event(interest, connection.as_raw_fd()))?;
            Ok(next != Progress::Closed)
        })
    })
}
