//! Mistake: the server unwraps the result of `bind`.
//!
//! Symptom: if the port is in use, or the address has a typing error, the server panics with a
//! message that does not name the address.
//!
//! Rule: bind(2) fails in normal operation (EADDRINUSE, EADDRNOTAVAIL, EACCES), and so does the
//! look-up of a host name. These errors are for the user, not for the programmer.
//!
//! Reproduce: `cargo run -p pitfalls --bin unwrap-at-start nonsense`
//!
//! Correct: `listen` in `common/src/socket.rs` returns an error that names the address and the
//! call, and `run` in `common/src/start.rs` prints it in one line.

use std::net::TcpListener;
use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, run};
use pitfalls::{ACCEPT_RETRY, spawn_echo};
use socket2::SockRef;

#[expect(clippy::unwrap_used)]
fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = TcpListener::bind(addr).unwrap(); // <- the mistake
        SockRef::from(&listener).set_keepalive(true)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            match accept(&listener) {
                Accepted::Connection(stream, peer) => spawn_echo(stream, peer),
                Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    })
}
