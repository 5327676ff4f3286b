//! Mistake: the result of `bind` is unwrapped.
//!
//! Seen: a port that is taken, or a typing error in the address, is answered with a panic and
//! its backtrace, in which the address is not named.
//!
//! Rule: `bind(2)` fails in daily use (EADDRINUSE, EADDRNOTAVAIL, EACCES), and so does the
//! look-up of a name: these are answers to the user.
//!
//! Show: `cargo run -p pitfalls --bin unwrap-at-start nonsense`.
//!
//! Right: `listen` in `common/src/socket.rs` returns an error that names the address, and `run`
//! in `common/src/start.rs` prints it in one line.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

use common::{ECHO_ADDR, exit_on_stop, run};

#[expect(clippy::unwrap_used)]
fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?;
        let listener = TcpListener::bind(addr).unwrap(); // <- the mistake
        println!("unwrap-at-start listening on {}", listener.local_addr()?);
        for stream in listener.incoming().flatten() {
            thread::Builder::new().spawn(move || echo(&stream))?;
        }
        Ok(())
    })
}

/// Its end is this client's only.
fn echo(stream: &TcpStream) {
    let _ = io::copy(&mut &*stream, &mut &*stream);
}
