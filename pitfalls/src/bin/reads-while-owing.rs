//! Mistake: a client is read from while it is owed something, without a bound.
//!
//! Seen: memory grows with what a client sends and does not read: one such client is enough to
//! end the server.
//!
//! Rule: the receive buffer that nobody empties closes the peer's window: TCP's flow control
//! does the rest. Whoever reads on takes that over, and has to bound it.
//!
//! Show: `cargo run -p pitfalls --bin reads-while-owing`, then `head -c 200M /dev/zero | nc
//! 127.0.0.1 7000 | sleep 60`, and look at the server in `top`.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: it reads only when it owes nothing.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, event, unless_it_blocks};

struct Client {
    stream: TcpStream,
    owed: VecDeque<u8>,
    ended: bool,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(Client { stream, owed: VecDeque::new(), ended: false });
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, client: &mut Client, _| {
            let Client { stream, owed, ended } = client;
            // <- the mistake: whatever `owed` holds
            if let Some(count) = unless_it_blocks(stream.read(&mut buffer))? {
                owed.extend(&buffer[..count]);
                *ended |= count == 0;
            }
            if let Some(count) = unless_it_blocks(stream.write(owed.as_slices().0))? {
                owed.drain(..count);
            }
            let mut interest = EpollFlags::empty();
            interest.set(EpollFlags::EPOLLIN, !*ended);
            interest.set(EpollFlags::EPOLLOUT, !owed.is_empty());
            epoll.modify(&*stream, &mut event(interest, stream.as_raw_fd()))?;
            Ok(!*ended || !owed.is_empty())
        })
    })
}
