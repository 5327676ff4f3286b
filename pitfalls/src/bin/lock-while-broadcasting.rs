//! Mistake: a client's thread holds the lock of its own client while it takes those of all the
//! others.
//!
//! Seen: it works while one talks at a time; two who talk at once, and the room stands still
//! for good.
//!
//! Rule: two locks taken in two orders: A has a and waits for b, B has b and waits for a.
//! Nobody lets go.
//!
//! Show: `cargo run -p pitfalls --bin lock-while-broadcasting`, then twice `yes | nc 127.0.0.1
//! 7001 | uniq -c`: the lines stop.
//!
//! Right: `reactor-chat/src/main.rs`: no thread holds two locks at once (`Server`);
//! `common/src/chat.rs`: one call of `Room` reaches all, so there is one lock.

use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{CHAT_ADDR, run};
use pitfalls::{lock, tell, threads, welcome};

struct Client {
    stream: TcpStream,
    /// Lines said and heard.
    lines: u64,
}

static ROOM: Mutex<Vec<(u64, Arc<Mutex<Client>>)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| threads(&addr, client))
}

fn client(stream: TcpStream) -> io::Result<()> {
    // Who does not take a line in this time does not read, and goes.
    stream.set_write_timeout(Some(Duration::from_millis(10)))?;
    let client = Arc::new(Mutex::new(Client { stream: stream.try_clone()?, lines: 0 }));
    let (own, name) = welcome(&stream, |id| {
        lock(&ROOM).push((id, Arc::clone(&client)));
        Ok(())
    })?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let room = lock(&ROOM).clone();
        let mut client = lock(&client);
        client.lines += 1; // <- the mistake: and it stays locked
        for (_, other) in room.iter().filter(|(id, _)| *id != own) {
            let mut other = lock(other);
            other.lines += 1;
            tell(&other.stream, &format!("{name}: {line}\n"));
        }
    }
    lock(&ROOM).retain(|(id, _)| *id != own);
    Ok(())
}
