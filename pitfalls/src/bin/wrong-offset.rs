//! Mistake: after a second short write, the server takes the count of that call for the offset in
//! the message.
//!
//! Symptom: if the client reads slowly, large messages come back with parts of them twice.
//!
//! Rule: write(2) returns the count of this call, not of the message. The counts have to be added
//! up.
//!
//! Reproduce: `cargo test wrong_offset`. It needs a client whose receive window is smaller than the
//! server's buffer. With `nc` on loopback, the second write already takes everything.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs`: `self.offset += write(…)`.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, read, run, write};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, event};

struct Client {
    stream: TcpStream,
    pending: Vec<u8>,
    offset: usize,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(Client { stream, pending: Vec::new(), offset: 0 });
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, Client { stream, pending, offset }, _| {
            if pending.is_empty() {
                match read(stream, &mut buffer)? {
                    None => return Ok(true),
                    Some(0) => return Ok(false), // EOF
                    Some(count) => pending.extend(&buffer[..count]),
                }
            }
            let written = write(stream, &pending[*offset..])?;
            if *offset + written == pending.len() {
                pending.clear();
                *offset = 0;
            } else if written > 0 {
                *offset = written; // <- the mistake: it has to be `+=`
            }
            let interest =
                if pending.is_empty() { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
            epoll.modify(&*stream, &mut event(interest, stream.as_raw_fd()))?;
            Ok(true)
        })
    })
}
