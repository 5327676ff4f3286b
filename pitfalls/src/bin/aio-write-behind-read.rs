//! Mistake: the server submits `aio_write` on a file descriptor on which an `aio_read` is waiting.
//!
//! Symptom: a client receives the lines of the others only after it has sent something itself.
//!
//! Rule: glibc performs the requests on one file descriptor one after another. The write waits
//! until the read is complete, and the read waits for the client.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin aio-write-behind-read`
//! 2. In two more terminals: `nc 127.0.0.1 7001`. A line typed in one of them appears in the other
//!    only after Enter is pressed there.
//!
//! Correct: `Connection::new` in `proactor-chat/src/connection.rs` reads from one file descriptor
//! and writes to a duplicate (`try_clone`), which has a queue of its own.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::sync::Mutex;

use aio_echo::set_max_helpers;
use common::{CHAT_ADDR, run};
use libc::{aio_read, aio_write};
use pitfalls::{aio, join, lock, threads};

static ROOM: Mutex<Vec<(u64, RawFd)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    set_max_helpers(200);
    run([CHAT_ADDR], |[addr]| threads(&addr, serve))
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let (id, name) = join(&stream, |id| {
        lock(&ROOM).push((id, fd));
        Ok(())
    })?;
    while let Some((bytes, count @ 1..)) = aio(aio_read, fd, vec![0; 1024], None)? {
        let line = [name.as_bytes(), b": ", &bytes[..count]].concat();
        for &(_, other) in lock(&ROOM).iter().filter(|(other, _)| *other != id) {
            let _ = aio(aio_write, other, line.clone(), None); // <- the mistake
        }
    }
    lock(&ROOM).retain(|(other, _)| *other != id);
    drop(stream); // after the file descriptor is out of the room
    Ok(())
}
