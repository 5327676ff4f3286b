//! Mistake: an error of one connection is returned from the server's loop.
//!
//! Seen: the server is gone, with all its clients, when one of them resets its connection.
//!
//! Rule: `read(2)` and `write(2)` on a connection fail for what its peer and the network do:
//! ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH. It concerns this connection.
//!
//! Show: `cargo run -p pitfalls --bin peer-error-ends`, then `python3 -c 'import socket as s; c
//! = s.create_connection(("127.0.0.1", 7000)); c.setsockopt(s.SOL_SOCKET, s.SO_LINGER,
//! bytes([1] + 7 * [0]))'`, which leaves with an RST.
//!
//! Right: `Connection::go_on` in `common/src/connection.rs`: it is logged, and ends the
//! connection; `serve` in `blocking-echo/src/bin/blocking-echo-iterative.rs`.

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        loop {
            match accept(&listener) {
                Accepted::Connection(stream, _) => echo(&stream)?, // <- the mistake
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    })
}

fn echo(stream: &TcpStream) -> io::Result<()> {
    io::copy(&mut &*stream, &mut &*stream).map(drop)
}
