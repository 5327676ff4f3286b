//! Mistake: the queue of output for a client has no limit.
//!
//! Symptom: the server's memory grows with every line while one client does not read, until the
//! kernel kills the server.
//!
//! Rule: in a chat, a client that does not read does not slow down the clients that send. So the
//! output that is pending for a client needs a limit. A client that reaches it has to be
//! disconnected.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin unbounded-queue`
//! 2. In a second terminal: `nc 127.0.0.1 7001`, then Ctrl-Z.
//! 3. In a third terminal: `yes | nc 127.0.0.1 7001`
//! 4. In a fourth terminal: `top`. The server's memory grows. (This one ends at 1 GiB, because it
//!    sets that limit itself.)
//!
//! Correct: `enqueue` in `common/src/chat/room.rs` limits the pending output of a client to 256
//! KiB.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread;

use common::{CHAT_ADDR, run};
use nix::sys::resource::{Resource, setrlimit};
use pitfalls::{join, lock, threads};

static ROOM: Mutex<Vec<(u64, Sender<String>)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    run([CHAT_ADDR], |[addr]| {
        setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30)?;
        threads(&addr, serve)
    })
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let (sender, queue) = mpsc::channel::<String>(); // <- the mistake: it has no limit
    let mut output = stream.try_clone()?;
    thread::Builder::new()
        .spawn(move || queue.iter().try_for_each(|line| output.write_all(line.as_bytes())))?;
    let (id, name) = join(&stream, |id| {
        lock(&ROOM).push((id, sender));
        Ok(())
    })?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        for (_, other) in lock(&ROOM).iter().filter(|(other, _)| *other != id) {
            let _ = other.send(format!("{name}: {line}\n"));
        }
    }
    lock(&ROOM).retain(|(other, _)| *other != id);
    Ok(())
}
