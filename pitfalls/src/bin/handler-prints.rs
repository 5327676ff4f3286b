//! Mistake: a signal handler prints a line.
//!
//! Seen: it works for days; then the server aborts, or hangs for good, when the signal comes in
//! the middle of a line that the program itself prints.
//!
//! Rule: a handler runs between any two instructions of what it interrupts: in the middle of a
//! `println!`, which holds a lock, or of `malloc`. Only the functions of signal-safety(7) may be
//! called; std's and glibc's printing and allocating are not among them.
//!
//! Show: `(sleep 1; cargo run -p pitfalls --bin handler-prints) | true`: here the signal comes
//! from the very line that is printed, to a pipe that nobody reads, and so each time.
//!
//! Right: `main` in `sigio-echo/src/main.rs`: the handler (signal-hook's) sets a flag, and nothing
//! else; `stop_socket` in `common/src/signals.rs`: it writes a byte into a socket.

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use pitfalls::threads;

extern "C" fn on_broken_pipe(_: i32) {
    println!("somebody does not read any more"); // <- the mistake
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // SAFETY: none; this is the mistake. Here it ends in an abort, as std sees it.
        unsafe { signal(Signal::SIGPIPE, SigHandler::Handler(on_broken_pipe)) }?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?; // it aborts often enough
        threads(&addr, echo)
    })
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
}
