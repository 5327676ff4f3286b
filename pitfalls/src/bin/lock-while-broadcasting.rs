//! Mistake: each client's thread keeps its own client locked while it locks the others.
//!
//! Symptom: the server works while one client sends at a time. When two clients send at once, both
//! stop receiving for ever.
//!
//! Rule: two threads deadlock if they take two locks in opposite order. Thread A holds lock a and
//! waits for lock b. Thread B holds lock b and waits for lock a.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin lock-while-broadcasting`
//! 2. In two more terminals: `yes | nc 127.0.0.1 7001`. The lines stop.
//!
//! Correct: in `reactor-chat/src/main.rs` no thread holds two locks at once. In
//! `common/src/chat.rs` one call of `Room` reaches all clients, so one lock is enough.

use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{CHAT_ADDR, run};
use pitfalls::{join, lock, send_line, threads};

struct Client {
    stream: TcpStream,
    /// Lines sent and received.
    lines: u64,
}

static ROOM: Mutex<Vec<(u64, Arc<Mutex<Client>>)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| threads(&addr, serve))
}

fn serve(stream: TcpStream) -> io::Result<()> {
    // A client that does not take a line in this time does not read, and is disconnected.
    stream.set_write_timeout(Some(Duration::from_millis(10)))?;
    let client = Arc::new(Mutex::new(Client { stream: stream.try_clone()?, lines: 0 }));
    let (id, name) = join(&stream, |id| {
        lock(&ROOM).push((id, Arc::clone(&client)));
        Ok(())
    })?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let room = lock(&ROOM).clone();
        let mut own = lock(&client);
        own.lines += 1; // <- the mistake: `own` stays locked until the end of this iteration
        for (_, other) in room.iter().filter(|(other, _)| *other != id) {
            let mut other = lock(other);
            other.lines += 1;
            send_line(&other.stream, &format!("{name}: {line}\n"));
        }
    }
    lock(&ROOM).retain(|(other, _)| *other != id);
    Ok(())
}
