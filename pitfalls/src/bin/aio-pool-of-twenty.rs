//! Mistake: POSIX AIO as glibc has it by default.
//!
//! Seen: twenty clients that say nothing, and the twenty-first gets no answer; nor do the
//! twenty.
//!
//! Rule: glibc's `aio_read(3)` is a thread that blocks in `read(2)`, and there are twenty of
//! them. A request that no thread is free for waits until one of the others has completed:
//! writes, too.
//!
//! Show: `cargo run -p pitfalls --bin aio-pool-of-twenty`, then `for i in $(seq 20); do (sleep
//! 60 | nc 127.0.0.1 7000 &) done; sleep 1; echo hello | timeout 2 nc 127.0.0.1 7000`.
//!
//! Right: `start_helpers` in `aio-echo/src/lib.rs`, and `CONNECTIONS` in
//! `aio-echo/src/main.rs`.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use libc::{aio_read, aio_write};
use pitfalls::{aio, threads};

fn main() -> ExitCode {
    // <- the mistake: `aio_init` is missing here
    run([ECHO_ADDR], |[addr]| threads(&addr, |stream| echo(&stream)))
}

/// Each client has a thread here, so that nothing but glibc's pool can be too small.
fn echo(stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        buffer.resize(16 * 1024, 0);
        let Some((read, count)) = aio(aio_read, stream.as_raw_fd(), buffer, None)? else {
            return Ok(());
        };
        buffer = read;
        buffer.truncate(count);
        while !buffer.is_empty() {
            let written = aio(aio_write, stream.as_raw_fd(), buffer, None)?;
            let Some((mut rest, count)) = written else { return Ok(()) };
            rest.drain(..count);
            buffer = rest;
        }
        if count == 0 {
            return Ok(());
        }
    }
}
