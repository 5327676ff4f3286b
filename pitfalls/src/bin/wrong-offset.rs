//! Mistake: after the second short write of a message, the next one starts where the first had
//! ended.
//!
//! Seen: large messages come back with parts of them doubled, where the client reads slowly.
//!
//! Rule: the count that `write(2)` returns is of this call, not of the message: it has to be
//! added up.
//!
//! Show: `cargo test wrong_offset`. It takes a client whose window is narrower than the
//! server's buffer: with `nc` on loopback the kernel has room for the rest at once.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: `self.sent += write(…)`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, event, unless_it_blocks};

struct Client {
    stream: TcpStream,
    owed: Vec<u8>,
    sent: usize,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(Client { stream, owed: Vec::new(), sent: 0 });
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, client: &mut Client, _| {
            let Client { stream, owed, sent } = client;
            if owed.is_empty() {
                match unless_it_blocks(stream.read(&mut buffer))? {
                    None => return Ok(true),
                    Some(0) => return Ok(false),
                    Some(count) => owed.extend(&buffer[..count]),
                }
            }
            if let Some(count) = unless_it_blocks(stream.write(&owed[*sent..]))? {
                let done = *sent + count == owed.len();
                *sent = if done { 0 } else { count }; // <- the mistake: `*sent + count`
                if done {
                    owed.clear();
                }
            }
            let next = if owed.is_empty() { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
            epoll.modify(&*stream, &mut event(next, stream.as_raw_fd()))?;
            Ok(true)
        })
    })
}
