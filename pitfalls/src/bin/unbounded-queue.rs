//! Mistake: what waits for a client is queued without a bound.
//!
//! Seen: memory grows with every line while one client does not read, until the server is
//! killed.
//!
//! Rule: there is no backpressure from one client to another: those who talk have no reason to
//! stop because somebody does not listen. What a client does not take has to end somewhere: at
//! a bound, and then the client goes.
//!
//! Show: `cargo run -p pitfalls --bin unbounded-queue`, then `nc 127.0.0.1 7001` with Ctrl-Z,
//! `yes | nc 127.0.0.1 7001`, and look at the server in `top`. (It ends at 1 GiB, by its own
//! limit.)
//!
//! Right: `BOUND` in `common/src/chat.rs`: `Member::give` finds who is beyond it, and
//! `Room::publish` sends them away.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread;

use common::{CHAT_ADDR, run};
use nix::sys::resource::{Resource, setrlimit};
use pitfalls::{lock, threads, welcome};

static ROOM: Mutex<Vec<(u64, Sender<String>)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| {
        setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30)?;
        threads(&addr, client)
    })
}

fn client(stream: TcpStream) -> io::Result<()> {
    let (sender, queue) = mpsc::channel::<String>(); // <- the mistake: no bound
    let mut taker = stream.try_clone()?;
    thread::Builder::new()
        .spawn(move || queue.iter().try_for_each(|line| taker.write_all(line.as_bytes())))?;
    let (own, name) = welcome(&stream, |id| {
        lock(&ROOM).push((id, sender));
        Ok(())
    })?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        for (_, other) in lock(&ROOM).iter().filter(|(id, _)| *id != own) {
            let _ = other.send(format!("{name}: {line}\n"));
        }
    }
    lock(&ROOM).retain(|(id, _)| *id != own);
    Ok(())
}
