//! Mistake: the server closes the socket of an idle client while an `aio_read` on it is in
//! progress.
//!
//! Symptom: the idle client is not disconnected. The next client, which gets the same file
//! descriptor, receives no replies.
//!
//! Rule: glibc performs `aio_read` in a helper thread that blocks in read(2). close(2) does not
//! wake that thread, and the blocked read keeps the connection open. glibc identifies requests by
//! the number of the file descriptor. So the requests of the next client wait behind the old
//! request. If the old request has not started yet, it reads from the socket of the next client.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin aio-close-in-flight 127.0.0.1:7001 1`
//! 2. In a second terminal: `nc 127.0.0.1 7001`. After a second it prints the goodbye, but the
//!    connection stays open.
//!
//! Correct: in `aio-echo/src/lib.rs`, an operation in progress owns its socket, so the socket
//! cannot be closed early. `proactor-chat/src/connection.rs` calls shutdown(2), which completes the
//! operations, and closes the socket afterwards.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use aio_echo::set_max_helpers;
use common::chat::parse_idle;
use common::{CHAT_ADDR, IDLE, run};
use libc::aio_read;
use pitfalls::{aio, join, threads};

fn main() -> ExitCode {
    set_max_helpers(200);
    run([CHAT_ADDR, IDLE], |[addr, seconds]| {
        let idle = parse_idle(&seconds)?;
        threads(&addr, move |stream| serve(stream, idle))
    })
}

/// Disconnects the client when it has been idle. This room answers all input like
/// `/who`, and forwards nothing to other clients.
fn serve(mut stream: TcpStream, idle: Option<Duration>) -> io::Result<()> {
    join(&stream, |_| Ok(()))?;
    loop {
        match aio(aio_read, stream.as_raw_fd(), vec![0; 1024], idle)? {
            Some((_, 0)) => return Ok(()),
            Some(_) => stream.write_all(b"* here: guest1\n")?,
            None => {
                let seconds = idle.unwrap_or_default().as_secs();
                stream.write_all(format!("* idle for {seconds} s, goodbye\n").as_bytes())?;
                drop(stream); // <- the mistake: the read is still in progress
                return Ok(());
            }
        }
    }
}
