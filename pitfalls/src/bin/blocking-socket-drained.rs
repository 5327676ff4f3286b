//! Mistake: the server reads until EAGAIN, but the socket is blocking.
//!
//! Symptom: the first client is served. While it is idle, no other client is served.
//!
//! Rule: a read on a blocking socket without data does not return EAGAIN. It sleeps until data
//! arrives. On Linux, a socket that accept(2) returns does not inherit `O_NONBLOCK` from the
//! listener (on BSD it does).
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin blocking-socket-drained`
//! 2. In a second terminal: `nc 127.0.0.1 7000`. Enter a line: it comes back.
//! 3. In a third terminal: `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: `Connection::new` in `common/src/connection.rs` makes the accepted socket non-blocking.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{MAX_STEPS, epoll, event};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let new = |stream: TcpStream, peer: SocketAddr| {
            let duplicate = stream.try_clone()?;
            let connection = Connection::new(stream, peer)?;
            // A duplicate shares O_NONBLOCK with its original, so this makes both blocking.
            duplicate.set_nonblocking(false)?; // <- the mistake
            Ok(connection)
        };
        epoll(&addr, interest, new, |epoll, connection, _| {
            for _ in 0..MAX_STEPS {
                match connection.step(&mut buffer) {
                    Progress::Echoed(_) => {} // the next step sleeps in `read`
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
