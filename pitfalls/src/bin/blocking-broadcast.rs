//! Mistake: a line is written to one client after the other, and a write blocks while its
//! client does not read.
//!
//! Seen: the whole room stands still when one client stops reading (its terminal is suspended,
//! its machine is asleep).
//!
//! Rule: `write(2)` on a socket that blocks waits until there is room in its send buffer, which
//! is when the peer reads: never, if it likes.
//!
//! Show: `cargo run -p pitfalls --bin blocking-broadcast`, then `nc 127.0.0.1 7001` with
//! Ctrl-Z, `yes | nc 127.0.0.1 7001`, and a third sees the lines stop.
//!
//! Right: `Member::give` in `common/src/chat.rs`: what waits for a client is kept for it, up to
//! `BOUND`; `Worker::follow_up` in `reactor-chat/src/worker.rs`: who has a line for others has them
//! registered, and each is written to when it is writable.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Mutex;

use common::{CHAT_ADDR, run};
use pitfalls::{lock, threads, welcome};

static ROOM: Mutex<Vec<(u64, TcpStream)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| threads(&addr, client))
}

fn client(stream: TcpStream) -> io::Result<()> {
    let (own, name) = welcome(&stream, |id| {
        lock(&ROOM).push((id, stream.try_clone()?));
        Ok(())
    })?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let line = format!("{name}: {line}\n");
        for (_, other) in lock(&ROOM).iter_mut().filter(|(id, _)| *id != own) {
            let _ = other.write_all(line.as_bytes()); // <- the mistake: for how long?
        }
    }
    lock(&ROOM).retain(|(id, _)| *id != own);
    Ok(())
}
