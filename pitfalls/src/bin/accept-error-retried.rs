//! Mistake: the server treats every error of `accept` that it does not know as the failure of one
//! connection, and calls `accept` again at once.
//!
//! Symptom: under a security module or in a sandbox that forbids `accept`, the server uses a full
//! core. If it logs each error, it also fills the disk.
//!
//! Rule: accept(2) lists the errors that belong to a connection (ECONNABORTED, EPROTO and those of
//! the network). They take the connection from the queue. Other errors, such as EMFILE, EACCES and
//! ENOSYS, take nothing, and the next call fails again at once. (accept(2) says that EPERM comes
//! from a firewall. Today it comes from a security module or a seccomp filter, and the connection
//! stays in the queue.)
//!
//! Reproduce (with `strace`):
//! 1. `strace -f -qq -o /dev/null -e trace=accept4 -e inject=accept4:error=EPERM cargo run -p
//!    pitfalls --bin accept-error-retried`
//! 2. In a second terminal: `top`. The server uses 100 % of a core, together with `strace`.
//!
//! Correct: `Accepted::from_result` in `common/src/socket.rs` has a list of the errors that belong
//! to one connection. After any other error, the server pauses accepting.

use std::process::ExitCode;
use std::thread;

use common::{ECHO_ADDR, announce, exit_on_stop, listen, run};
use pitfalls::{ACCEPT_RETRY, spawn_echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        loop {
            match listener.accept() {
                Ok((stream, peer)) => spawn_echo(stream, peer),
                Err(error) => {
                    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
                    if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) {
                        thread::sleep(ACCEPT_RETRY);
                    } // <- the mistake: after all other errors it calls `accept` at once
                }
            }
        }
    })
}
