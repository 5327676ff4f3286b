//! Mistake: edge-triggered, and each socket is read until nothing is left, however long that
//! takes.
//!
//! Seen: one client that sends without a pause, and all the others wait until it ends.
//!
//! Rule: to drain the socket until EAGAIN is what `EPOLLET` asks for; but where the peer sends
//! as fast as the server reads, EAGAIN never comes.
//!
//! Show: `cargo test edge_without_budget`. It takes a client that is faster than the server, as
//! one over two threads is; `nc` is not.
//!
//! Right: `STEPS` and `ready` in `epoll-echo/src/bin/epoll-echo-edge.rs`: so many steps, and
//! the rest in the next round.

use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, Progress, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::epoll;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let news = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll(&addr, news, Connection::new, |_, connection, _| {
            loop {
                // <- the mistake: without a budget
                match connection.step(&mut buffer) {
                    Progress::Echoed(_) => {}
                    Progress::WantRead | Progress::WantWrite => return Ok(true),
                    Progress::Closed => return Ok(false),
                }
            }
        })
    })
}
