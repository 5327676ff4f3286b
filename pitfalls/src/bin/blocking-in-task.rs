//! Mistake: a task waits in a call that blocks, instead of in an `.await`.
//!
//! Symptom: while one client does not read, no other client is served.
//!
//! Rule: an executor regains control only at an `.await` that is pending. A call that blocks, or a
//! long computation, stops the thread, and with it all tasks of this thread. The same holds for
//! `std::thread::sleep`, for `std::net` sockets that block, and for a name look-up. A runtime has
//! replacements for the calls, and threads for the rest (tokio: `spawn_blocking`).
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin blocking-in-task`
//! 2. In a second terminal: `head -c 200M /dev/zero | nc 127.0.0.1 7000 | sleep 60`
//! 3. In a third terminal: `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: `echo` in `async-echo/src/main.rs` awaits room in the send buffer.

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, read, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::tasks::{Reactor, tasks};
use pitfalls::write_all;

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
        write_all(&stream, &buffer[..count])?; // <- the mistake: it waits in poll(2)
    }
}
