//! Mistake: the server keeps reading from a client, however much output for it is pending.
//!
//! Symptom: the server's memory grows with everything that a client sends and does not read back.
//! One such client can make the server run out of memory.
//!
//! Rule: when a server does not read, the receive buffer fills up and TCP flow control stops the
//! peer. A server that reads into its own memory bypasses flow control, and has to set a limit
//! itself.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin reads-with-pending-output`
//! 2. In a second terminal: `head -c 200M /dev/zero | nc 127.0.0.1 7000 | sleep 60`
//! 3. In a third terminal: `top`. The server uses 200 MB of memory.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs` reads only when it has no pending
//! output.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, read, run, write};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, event};

struct Client {
    stream: TcpStream,
    pending: VecDeque<u8>,
    eof: bool,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(Client { stream, pending: VecDeque::new(), eof: false });
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, Client { stream, pending, eof }, _| {
            // <- the mistake: it reads however much is in `pending`
            if let Some(count) = read(stream, &mut buffer)? {
                pending.extend(&buffer[..count]);
                *eof |= count == 0;
            }
            let written = write(stream, pending.as_slices().0)?;
            pending.drain(..written);
            let mut interest = EpollFlags::empty();
            interest.set(EpollFlags::EPOLLIN, !*eof);
            interest.set(EpollFlags::EPOLLOUT, !pending.is_empty());
            epoll.modify(&*stream, &mut event(interest, stream.as_raw_fd()))?;
            Ok(!*eof || !pending.is_empty())
        })
    })
}
