//! Mistake: the server's loop returns the error of one connection.
//!
//! Symptom: when one client resets its connection, the server exits, and all other clients lose
//! their connections.
//!
//! Rule: read(2) and write(2) fail because of what the peer or the network did: ECONNRESET, EPIPE,
//! ETIMEDOUT, EHOSTUNREACH. Such an error concerns this one connection.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin peer-error-ends`
//! 2. In a second terminal: `python3 -c 'import socket as s; c = s.create_connection(("127.0.0.1",
//!    7000)); c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, bytes([1] + 7 * [0]))'`. This client closes
//!    its connection with an RST, and the server exits with "Connection reset by peer".
//!
//! Correct: `Connection::step` in `common/src/connection.rs` logs the error and closes the
//! connection.

use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use pitfalls::{ACCEPT_RETRY, echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            match accept(&listener) {
                Accepted::Connection(stream, _) => echo(&stream)?, // <- the mistake
                Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    })
}
