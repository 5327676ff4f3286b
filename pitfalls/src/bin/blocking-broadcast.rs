//! Mistake: the server writes a line to one client after another, and each write can block.
//!
//! Symptom: when one client stops reading (its terminal is suspended, its machine sleeps), no
//! client receives anything any more.
//!
//! Rule: write(2) on a blocking socket waits until the send buffer has room. The buffer gets room
//! only when the peer reads, and a peer may never read.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin blocking-broadcast`
//! 2. In a second terminal: `nc 127.0.0.1 7001`, then Ctrl-Z.
//! 3. In a third terminal: `nc 127.0.0.1 7001`
//! 4. In a fourth terminal: `yes | nc 127.0.0.1 7001`. The lines in the third terminal soon stop.
//!
//! Correct: the room in `common/src/chat/room.rs` queues the lines for each client, up to a limit,
//! and `reactor-chat/src/worker.rs` writes to a client when its socket is writable.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Mutex;

use common::{CHAT_ADDR, run};
use pitfalls::{join, lock, threads};

static ROOM: Mutex<Vec<(u64, TcpStream)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| threads(&addr, serve))
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let (id, name) = join(&stream, |id| {
        lock(&ROOM).push((id, stream.try_clone()?));
        Ok(())
    })?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let line = format!("{name}: {line}\n");
        for (_, other) in lock(&ROOM).iter_mut().filter(|(other, _)| *other != id) {
            let _ = other.write_all(line.as_bytes()); // <- the mistake: it can block for ever
        }
    }
    lock(&ROOM).retain(|(other, _)| *other != id);
    Ok(())
}
