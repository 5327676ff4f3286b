//! Mistake: an answer is written in two parts, as header and body often are, with Nagle's
//! algorithm on.
//!
//! Seen: each answer takes 40 ms longer than it should, on the fastest network.
//!
//! Rule: Nagle's algorithm keeps a small segment back while one before it is not acknowledged;
//! and the peer delays its acknowledgement (40 ms on Linux), in the hope of an answer to send
//! it with. Each waits for the other.
//!
//! Show: `cargo run -p pitfalls --bin two-small-writes`, then in bash `exec
//! 3<>/dev/tcp/127.0.0.1/7000; time for i in {1..50}; do echo hello there >&3; read -u 3;
//! done`: two seconds.
//!
//! Right: `Connection::copy` in `common/src/connection.rs`: one write for all there is; and
//! `accepted` in `common/src/socket.rs`: `set_nodelay`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use pitfalls::threads;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| threads(&addr, echo))
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(false)?; // <- the mistake, with the two writes below
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let (header, body) = buffer[..count].split_at(count.min(4));
        stream.write_all(header)?;
        stream.write_all(body)?;
    }
}
