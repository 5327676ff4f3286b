//! Mistake: `aio_write` on the descriptor on which an `aio_read` waits.
//!
//! Seen: a client that listens hears nothing before it says something itself.
//!
//! Rule: glibc does the requests on one descriptor one after another: the write waits behind
//! the read, and the read for its client.
//!
//! Show: `cargo run -p pitfalls --bin aio-write-behind-read`, then twice `nc 127.0.0.1 7001`:
//! what one says the other one sees after Enter.
//!
//! Right: `Connection::new` in `proactor-chat/src/connection.rs`: a descriptor to read from, and a
//! duplicate (`try_clone`) to write to, which has a queue of its own. It is one of the rules at the
//! top of `aio-echo/src/lib.rs`.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::sync::Mutex;

use aio_echo::start_helpers;
use common::{CHAT_ADDR, run};
use libc::{aio_read, aio_write};
use pitfalls::{aio, lock, threads, welcome};

static ROOM: Mutex<Vec<(u64, RawFd)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    start_helpers(200);
    run([CHAT_ADDR], |[addr]| threads(&addr, client))
}

fn client(stream: TcpStream) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let (own, name) = welcome(&stream, |id| {
        lock(&ROOM).push((id, fd));
        Ok(())
    })?;
    while let Some((bytes, count @ 1..)) = aio(aio_read, fd, vec![0; 1024], None)? {
        let line = [name.as_bytes(), b": ", &bytes[..count]].concat();
        for &(_, other) in lock(&ROOM).iter().filter(|(id, _)| *id != own) {
            let _ = aio(aio_write, other, line.clone(), None); // <- the mistake
        }
    }
    lock(&ROOM).retain(|(id, _)| *id != own);
    drop(stream); // not while it is in the room
    Ok(())
}
