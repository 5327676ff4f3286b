//! Mistake: a future returns `Pending`, and nobody has its waker.
//!
//! Symptom: a client that reads slowly receives the first part of a large message, and then nothing
//! more.
//!
//! Rule: who returns `Pending` has to see to it that the task is woken: it gives the waker of the
//! `Context` to somebody who calls `wake` when the future can continue. Nothing polls a task by
//! itself. (`Future::poll`: "when a future is not ready yet, `poll` returns `Poll::Pending` and
//! stores a clone of the `Waker`".)
//!
//! Reproduce: `cargo test waker_forgotten`. It needs a client that reads slowly, so that the socket
//! does not take all output at once.
//!
//! Correct: `ready` in `async-echo/src/main.rs` stores the waker at each poll that is pending.

use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};

use common::{BUFFER_SIZE, ECHO_ADDR, read, run, write};
use nix::sys::epoll::EpollFlags;
use pitfalls::tasks::{Reactor, tasks};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| tasks(&addr, serve))
}

async fn serve(reactor: &'static Reactor, stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        reactor.ready(&stream, EpollFlags::EPOLLIN).await?;
        let Some(count) = read(&stream, &mut buffer)? else { continue };
        if count == 0 {
            return Ok(());
        }
        WriteAll { stream: &stream, rest: &buffer[..count] }.await?;
    }
}

/// Completes when all bytes have been written.
struct WriteAll<'a> {
    stream: &'a TcpStream,
    rest: &'a [u8],
}

impl Future for WriteAll<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = write(self.stream, self.rest)?;
        self.rest = &self.rest[written..];
        if self.rest.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending // <- the mistake: it has not registered the waker for EPOLLOUT
    }
}
