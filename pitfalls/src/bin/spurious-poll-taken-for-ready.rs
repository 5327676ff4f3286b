//! Mistake: a future takes its second poll for the event that it awaits.
//!
//! Symptom: when the server is suspended and resumed, idle clients lose their connections.
//!
//! Rule: a task may be polled at any time, whether one of its wakers was called or not. Here the
//! executor polls all tasks after a signal. In other programs, a second future in the same task
//! (`select!`, `join!`) is the cause. So a future has to find out by itself what has happened.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin spurious-poll-taken-for-ready`
//! 2. In a second terminal: `nc 127.0.0.1 7000`
//! 3. In the first terminal: Ctrl-Z, then `fg`. The server logs `disconnected: Resource temporarily
//!    unavailable`, which is EAGAIN, and `nc` ends at its next line.
//!
//! Correct: `ready` in `async-echo/src/main.rs` checks whether the reactor has taken the waker.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};

use common::{BUFFER_SIZE, ECHO_ADDR, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::tasks::{Reactor, tasks};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| tasks(&addr, serve))
}

async fn serve(reactor: &'static Reactor, stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        Readable { reactor, stream: &stream, was_polled: false }.await?;
        let count = (&stream).read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            reactor.ready(&stream, EpollFlags::EPOLLOUT).await?;
            let written = (&stream).write(rest)?;
            rest = &rest[written..];
        }
    }
}

/// Completes when the socket is readable.
struct Readable<'a> {
    reactor: &'static Reactor,
    stream: &'a TcpStream,
    was_polled: bool,
}

impl Future for Readable<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.was_polled {
            return Poll::Ready(Ok(())); // <- the mistake
        }
        self.was_polled = true;
        self.reactor.register(self.stream, EpollFlags::EPOLLIN, context.waker())?;
        Poll::Pending
    }
}
