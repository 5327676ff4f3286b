//! Mistake: EPOLLRDHUP is treated as "the client is gone", and the connection is closed.
//!
//! Symptom: a client sends a request and then half-closes, as `nc -N` does. It gets no response, or
//! only part of one.
//!
//! Rule: EPOLLRDHUP means that the peer will send no more data. The peer may still be reading, and
//! data that it sent earlier may still be unread in our socket. (EPOLLHUP means that both
//! directions are closed.)
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. Start `cargo run -p pitfalls --bin hangup-closes`, and press Ctrl-Z to suspend it.
//! 2. In a second terminal: `echo hello | nc -N 127.0.0.1 7000`
//! 3. In the first terminal: `fg`. The server finds the data and the FIN together, and `nc` prints
//!    nothing.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs` closes when `read` returns 0. That
//! happens after all data has been read. `try_step` never reads while output is pending, so by then
//! everything has been written too.

use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, event};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        epoll(&addr, interest, Connection::new, |epoll, connection, events| {
            if events.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP) {
                return Ok(false); // <- the mistake
            }
            let progress = connection.step(&mut buffer);
            let pending = connection.has_pending_output();
            let interest = if pending { EpollFlags::EPOLLOUT } else { interest };
            epoll.modify(&*connection, &mut event(interest, connection.as_fd().as_raw_fd()))?;
            Ok(progress != Progress::Closed)
        })
    })
}
