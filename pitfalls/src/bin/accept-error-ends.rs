//! Mistake: an error from `accept` ends the server.
//!
//! Seen: the server is gone, with all its clients, when the first one too many has come.
//!
//! Rule: `accept(2)` fails for reasons of the moment (EMFILE, ENFILE, ENOMEM: out of
//! descriptors or memory) and of one connection (ECONNABORTED and what the network made of it).
//! None of them concerns the listening socket.
//!
//! Show: once it is built, `(ulimit -n 20; cargo run -p pitfalls --bin accept-error-ends)`, then
//! `for i in $(seq 30); do (sleep 9 | nc 127.0.0.1 7000 &) done`.
//!
//! Right: `accepted` in `common/src/socket.rs` tells the errors apart.

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;

use common::{ECHO_ADDR, announce, exit_on_stop, listen, run};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept()?; // <- the mistake
            stream.set_nodelay(true)?;
            thread::Builder::new().spawn(move || echo(&stream))?;
        }
    })
}

/// Its end is this client's only.
fn echo(stream: &TcpStream) {
    let _ = io::copy(&mut &*stream, &mut &*stream);
}
