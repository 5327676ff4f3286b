//! Mistake: the server writes each reply in two parts, such as a header and a body, while Nagle's
//! algorithm is on.
//!
//! Symptom: each reply takes 40 ms, even on the fastest network.
//!
//! Rule: Nagle's algorithm holds a small segment back while an earlier one is not acknowledged. The
//! peer delays the acknowledgment, by 40 ms on Linux, in order to send it together with data. So
//! each side waits for the other.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin two-small-writes`
//! 2. In a second terminal, in bash: `exec 3<>/dev/tcp/127.0.0.1/7000; time for i in {1..50}; do
//!    echo hello there >&3; read -u 3; done` takes two seconds.
//!
//! Correct: `Connection::try_step` in `common/src/connection.rs` writes everything with one call,
//! and `common/src/socket.rs` sets `TCP_NODELAY`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use pitfalls::threads;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| threads(&addr, serve))
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(false)?; // <- the mistake, together with the two writes below
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
