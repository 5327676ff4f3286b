//! Mistake: at EOF the server closes the connection although it still has output for the client.
//!
//! Symptom: a client that half-closes does not get the last reply. A short reply is lost entirely.
//!
//! Rule: read(2) returns 0 when the peer has finished sending. The peer may still be reading.
//! close(2) sends what is in the send buffer of the kernel. Output that the process still has in
//! its own memory is lost.
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. Start `cargo run -p pitfalls --bin pending-output-dropped-at-eof`, and press Ctrl-Z.
//! 2. In a second terminal: `echo hello | nc -N 127.0.0.1 7000`
//! 3. In the first terminal: `fg`. The server finds the data and the FIN together, and `nc` prints
//!    nothing.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs` reads only when it has no pending
//! output. So it has written everything when `read` returns 0.

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
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream, _| Ok(Client { stream, pending: VecDeque::new() });
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, Client { stream, pending }, events| {
            if events.contains(EpollFlags::EPOLLIN) {
                match read(stream, &mut buffer)? {
                    Some(0) => return Ok(false), // <- the mistake: `pending` may not be empty
                    count => pending.extend(&buffer[..count.unwrap_or(0)]),
                }
            } else {
                let written = write(stream, pending.as_slices().0)?;
                pending.drain(..written);
            }
            let mut interest = EpollFlags::empty();
            interest.set(EpollFlags::EPOLLIN, pending.len() < BUFFER_SIZE);
            interest.set(EpollFlags::EPOLLOUT, !pending.is_empty());
            epoll.modify(&*stream, &mut event(interest, stream.as_raw_fd()))?;
            Ok(true)
        })
    })
}
