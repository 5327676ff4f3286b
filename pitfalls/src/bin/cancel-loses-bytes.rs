//! Mistake: a loop awaits two futures at once (`select!`), and drops one that has taken bytes.
//!
//! Symptom: bytes are missing from large messages.
//!
//! Rule: to drop a future is to cancel it, with its local variables. A future that has read bytes
//! and then awaits more loses them. So a future that is used in such a loop must be safe to cancel:
//! it keeps no progress across an `.await`, or the loop keeps the future and polls it again.
//!
//! Reproduce: `cargo test cancel_loses_bytes`. It needs a client that sends and receives at the same
//! time.
//!
//! Correct: `ready` in `async-echo/src/main.rs` keeps nothing, and `accept_all` in
//! `async-echo/src/bin/async-echo-uring.rs` keeps the future that it needs again.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;

use common::{BUFFER_SIZE, ECHO_ADDR, read, run, write};
use nix::sys::epoll::EpollFlags;
use pitfalls::tasks::{Reactor, tasks};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| tasks(&addr, serve))
}

enum Event {
    Received(Vec<u8>),
    Sent(usize),
}

async fn serve(reactor: &'static Reactor, stream: TcpStream) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut eof = false;
    while !eof || !pending.is_empty() {
        let mut receive = pin!(receive(reactor, &stream));
        let mut writable = pin!(reactor.ready(&stream, EpollFlags::EPOLLOUT));
        let (may_receive, may_send) = (!eof && pending.len() < BUFFER_SIZE, !pending.is_empty());
        let event = poll_fn(|context| {
            match may_receive.then(|| receive.as_mut().poll(context)) {
                Some(Poll::Ready(result)) => return Poll::Ready(result.map(Event::Received)),
                _ if !may_send => return Poll::Pending,
                _ => {}
            }
            let sent = |()| Ok(Event::Sent(write(&stream, &pending)?));
            writable.as_mut().poll(context).map(|result| result.and_then(sent))
        });
        match event.await? {
            Event::Received(bytes) => {
                eof = bytes.is_empty();
                pending.extend(bytes);
            }
            Event::Sent(count) => drop(pending.drain(..count)),
        } // <- the mistake: `receive` is dropped here, after `Sent` too
    }
    Ok(())
}

/// Receives until less than a kilobyte comes, or 16 of them. Returns nothing at EOF.
async fn receive(reactor: &Reactor, stream: &TcpStream) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer, mut count) = (Vec::new(), [0; 1024], 1024);
    while count == buffer.len() && bytes.len() < BUFFER_SIZE / 4 {
        reactor.ready(stream, EpollFlags::EPOLLIN).await?;
        let Some(received) = read(stream, &mut buffer)? else { continue };
        count = received;
        bytes.extend(&buffer[..count]);
    }
    Ok(bytes)
}
