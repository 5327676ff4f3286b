//! Mistake: at the end of the input the connection is closed, with output still in its buffer.
//!
//! Seen: the last answer to a client that half-closes is missing: all of a short one.
//!
//! Rule: 0 from `read(2)` means that the peer sends no more. It says nothing about what the
//! peer still wants to read; `close(2)` delivers what the *kernel* has, not what the process
//! keeps.
//!
//! Show: `cargo run -p pitfalls --bin owed-dropped-at-eof`, Ctrl-Z; `echo hello | nc -N
//! 127.0.0.1 7000` in another terminal; and `fg`: data and FIN are both there when the server
//! looks, and nothing comes back.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: it reads only when nothing is owed,
//! so it cannot see the end before all is delivered.

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
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(Client { stream, owed: VecDeque::new() });
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, client: &mut Client, news| {
            let Client { stream, owed } = client;
            if news.contains(EpollFlags::EPOLLIN) {
                match unless_it_blocks(stream.read(&mut buffer))? {
                    Some(0) => return Ok(false), // <- the mistake: something may be owed
                    count => owed.extend(&buffer[..count.unwrap_or(0)]),
                }
            } else if let Some(count) = unless_it_blocks(stream.write(owed.as_slices().0))? {
                owed.drain(..count);
            }
            let mut interest = EpollFlags::empty();
            interest.set(EpollFlags::EPOLLIN, owed.len() < BUFFER_SIZE);
            interest.set(EpollFlags::EPOLLOUT, !owed.is_empty());
            epoll.modify(&*stream, &mut event(interest, stream.as_raw_fd()))?;
            Ok(true)
        })
    })
}
