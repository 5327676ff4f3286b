//! Mistake: TCP keepalive is off.
//!
//! Symptom: the number of connections grows over weeks. Most of them belong to clients that have
//! vanished: their machine lost power, or a router on the way forgot the connection.
//!
//! Rule: a client that vanishes sends neither FIN nor RST. A server that only waits for data never
//! notices. With `SO_KEEPALIVE` the kernel sends probes on an idle connection and ends it with
//! ETIMEDOUT if none is answered (tcp(7)). By default the first probe is sent after two hours. An
//! idle timeout in the protocol serves the same purpose.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin no-keepalive`
//! 2. In a second terminal: `nc 127.0.0.1 7000`
//! 3. In a third terminal: `ss -tno sport = :7000` shows no timer. With `epoll-echo` it shows
//!    "timer:(keepalive,…)".
//!
//! Correct: `set_inherited_options` in `common/src/socket.rs` enables keepalive on the listener.
//! Accepted sockets inherit it.

use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use pitfalls::{ACCEPT_RETRY, spawn_echo};
use socket2::SockRef;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        // `listen` enables it for the listener, and accepted sockets inherit that. This line undoes
        // that: it is off, as in a server that never enables it.
        SockRef::from(&listener).set_keepalive(false)?; // <- the mistake
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
