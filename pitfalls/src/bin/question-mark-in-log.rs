//! Mistake: an error is checked only by a `?` inside the arguments of a log macro. When that log
//! level is off, the arguments are not evaluated, and the error is lost.
//!
//! Symptom: the port is in use, but the server starts, and listens on another port. With
//! `RUST_LOG=debug` it reports the error.
//!
//! Rule: the arguments of `debug!` and `trace!` are not evaluated when the level is off, so the `?`
//! does not run. The same holds for a call with a side effect inside the macro. (What follows from
//! the error depends on the call. listen(2) on a socket that is not bound picks a free port.)
//!
//! Reproduce:
//! 1. `cargo run -p epoll-echo`
//! 2. In a second terminal: `cargo run -p pitfalls --bin question-mark-in-log` prints another port
//!    than 7000.
//! 3. `RUST_LOG=debug cargo run -p pitfalls --bin question-mark-in-log` reports "Address already in
//!    use".
//!
//! Correct: in `epoll-echo/src/main.rs` the result of `epoll_wait` is checked first. The log macro
//! that follows only prints it.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, run};
use log::debug;
use pitfalls::{ACCEPT_RETRY, spawn_echo};
use socket2::{Domain, Socket, Type};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let address: SocketAddr = addr.parse()?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let result = socket.bind(&address.into());
        debug!("bind({address}) = {:?}", result?); // <- the mistake
        socket.set_keepalive(true)?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
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
