//! Mistake: the server submits a multishot accept (one operation that accepts many connections) once,
//! and never looks at `IORING_CQE_F_MORE`. A completion without this flag is the last one.
//!
//! Symptom: the server works until `accept` fails for the first time, for example because it is out
//! of file descriptors. From then on it accepts no connection, even after clients have left and
//! file descriptors are free.
//!
//! Rule: a multishot operation continues as long as its completions have the flag
//! `IORING_CQE_F_MORE`. A completion without it is the last one. The last completion can report an
//! error, but it can also report a success (`io_uring_prep_multishot_accept(3)`). Then submit the
//! operation again.
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo build -p pitfalls`
//! 2. `(ulimit -n 20; cargo run -p pitfalls --bin cqe-more-ignored)`
//! 3. In a second terminal:
//!    `for i in $(seq 30); do (sleep 3 | nc -N 127.0.0.1 7000 &) done; sleep 9`
//! 4. `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: `on_accept` in `uring-echo/src/bin/uring-echo-buffers.rs` checks the flag, and pauses
//! after an error.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;

use common::{Accepted, ECHO_ADDR, announce, listen, run};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use pitfalls::{exit_on_stop_with_ring, spawn_echo};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let mut ring = IoUring::new(256)?;
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()));
        let accept = accept.flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the operation uses no memory of this process.
        unsafe { ring.submission().push(&accept) }?;
        exit_on_stop_with_ring(&listener)?;
        announce(listener.local_addr()?);
        loop {
            let _ = ring.submit_and_wait(1); // after EINTR, nothing is complete
            for completion in ring.completion() {
                let accepted = Accepted::from_result(connection(completion.result()));
                if let Some(Accepted::Connection(stream, peer)) = accepted {
                    spawn_echo(stream, peer);
                } // <- the mistake: without the flag, the accept has ended
            }
        }
    })
}

/// Converts the result of the accept, a file descriptor or a negative error number.
fn connection(result: i32) -> io::Result<(TcpStream, SocketAddr)> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the kernel has just opened this file descriptor for us.
    let stream = unsafe { TcpStream::from_raw_fd(result) };
    let peer = stream.peer_addr()?;
    Ok((stream, peer))
}
