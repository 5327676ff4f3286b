//! Mistake: with edge-triggered epoll, the server stops reading after a short read. epoll(7) allows
//! that, but a TCP read also stops at urgent data, and a FIN can follow.
//!
//! Symptom: after a client has sent urgent data, as telnet does for Ctrl-C, the data behind it is
//! answered only when the client sends more.
//!
//! Rule: a short read does not prove that the socket is empty. A read also stops at the urgent
//! mark, for example, and a FIN can be waiting behind the data. With EPOLLET no event reports what
//! is left. So read until EAGAIN. (epoll(7), question 9, says that a short read is enough. For TCP
//! it is not.)
//!
//! Reproduce:
//! 1. Start `cargo run -p pitfalls --bin short-read-taken-for-empty`, and press Ctrl-Z.
//! 2. In a second terminal:
//!    `python3 -i -c 'import socket; s = socket.create_connection(("127.0.0.1", 7000))'`, and then
//!    `s.send(b"abc"), s.send(b"!", socket.MSG_OOB), s.send(b"def")`
//! 3. In the first terminal: `fg`
//! 4. In the second terminal: `s.recv(10)` returns "abc". The next `s.recv(10)` waits for ever.
//!
//! Correct: `Connection::echo` in `epoll-echo/src/bin/epoll-echo-edge.rs` reads until EAGAIN.

use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{MAX_STEPS, epoll, event};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let interest = interest | EpollFlags::EPOLLRDHUP;
        epoll(&addr, interest, Connection::new, |epoll, connection, events| {
            let eof = events.contains(EpollFlags::EPOLLRDHUP); // arrived together with the data
            for _ in 0..MAX_STEPS {
                match connection.step(&mut buffer) {
                    Progress::Echoed(count) if count < BUFFER_SIZE && !eof => {
                        return Ok(true); // <- the mistake
                    }
                    Progress::Echoed(_) => {}
                    Progress::WantRead | Progress::WantWrite => return Ok(true),
                    Progress::Closed => return Ok(false),
                }
            }
            // Makes epoll report the rest: EPOLL_CTL_MOD looks at the state of the socket again.
            epoll.modify(&*connection, &mut event(interest, connection.as_fd().as_raw_fd()))?;
            Ok(true)
        })
    })
}
