//! Mistake: the connection of an idle client is closed while an `aio_read` on it is in flight.
//!
//! Seen: the client is not sent away at all; and the next one, which gets the same descriptor,
//! is not answered.
//!
//! Rule: the helper thread sits in `read(2)`, which keeps the connection open and is not woken
//! by `close(2)`. glibc knows a request by the descriptor's number, so those of the next client
//! queue behind it; one that had not begun yet would read the next client's bytes.
//!
//! Show: `cargo run -p pitfalls --bin aio-close-in-flight 127.0.0.1:7001 1`, then `nc 127.0.0.1
//! 7001`: it says goodbye and stays.
//!
//! Right: `InFlight` in `aio-echo/src/lib.rs` has the socket until the operation is done, so
//! that it cannot be closed before; `Connection::shut_down` in `proactor-chat/src/connection.rs`
//! completes what is in flight.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use aio_echo::start_helpers;
use common::chat::idle;
use common::{CHAT_ADDR, IDLE, run};
use libc::aio_read;
use pitfalls::{aio, threads, welcome};

fn main() -> ExitCode {
    start_helpers(200);
    run([CHAT_ADDR, IDLE], |[addr, seconds]| {
        let idle = idle(&seconds)?;
        threads(&addr, move |stream| client(stream, idle))
    })
}

/// A room in which nobody listens: it is about who stays too long.
fn client(mut stream: TcpStream, idle: Option<Duration>) -> io::Result<()> {
    welcome(&stream, |_| Ok(()))?;
    loop {
        match aio(aio_read, stream.as_raw_fd(), vec![0; 1024], idle)? {
            Some((_, 0)) => return Ok(()),
            Some(_) => {}
            None => {
                let seconds = idle.unwrap_or_default().as_secs();
                stream.write_all(format!("* idle for {seconds} s, goodbye\n").as_bytes())?;
                drop(stream); // <- the mistake: the read has not completed
                return Ok(());
            }
        }
    }
}
