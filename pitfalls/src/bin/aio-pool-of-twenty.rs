//! Mistake: the server uses POSIX AIO with glibc's default number of helper threads.
//!
//! Symptom: while twenty clients are connected and idle, any other client gets no reply.
//!
//! Rule: glibc's `aio_read(3)` runs in a helper thread that blocks in read(2), and by default there
//! are at most twenty of them. A request without a free helper waits until another request is
//! complete. That applies to writes too.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin aio-pool-of-twenty`
//! 2. In a second terminal: `for i in $(seq 20); do (sleep 60 | nc 127.0.0.1 7000 &) done`
//! 3. `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: `set_max_helpers` in `aio-echo/src/lib.rs` calls `aio_init` before the first operation,
//! and `aio-echo/src/main.rs` refuses clients beyond that number.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use libc::{aio_read, aio_write};
use pitfalls::{aio, threads};

fn main() -> ExitCode {
    // <- the mistake: the call of `aio_init` is missing here
    run([ECHO_ADDR], |[addr]| threads(&addr, |stream| serve(&stream)))
}

/// Runs in a thread of its own for each client, so that only glibc's helpers can be too few.
fn serve(stream: &TcpStream) -> io::Result<()> {
    loop {
        let Some((mut buffer, count)) = aio(aio_read, stream.as_raw_fd(), vec![0; 16_384], None)?
        else {
            return Ok(());
        };
        if count == 0 {
            return Ok(()); // EOF
        }
        buffer.truncate(count);
        while !buffer.is_empty() {
            let Some((mut rest, written)) = aio(aio_write, stream.as_raw_fd(), buffer, None)?
            else {
                return Ok(());
            };
            rest.drain(..written);
            buffer = rest;
        }
    }
}
