//! Mistake: a send is linked to the next receive into the same buffer. After a short send, the
//! receive still runs, and overwrites the bytes that were not sent.
//!
//! Symptom: small messages work. A large message comes back with parts missing if the client reads
//! more slowly than it sends.
//!
//! Rule: a link breaks if an operation fails, but a short send is not a failure. So the next
//! operation starts, and the receive overwrites the bytes that were not sent. With `MSG_WAITALL`
//! the kernel sends everything, or breaks the link (`io_uring_prep_send(3)`).
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin short-send-in-a-link`
//! 2. In a second terminal:
//!    `head -c 20M /dev/zero | (nc -N 127.0.0.1 7000; true) | (sleep 2; wc -c)` prints a number
//!    below 20971520.
//!
//! Correct: `uring-echo/src/main.rs` does not link. It checks the count of each send.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use common::{BUFFER_SIZE, ECHO_ADDR, run};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use pitfalls::threads;

const SEND: u64 = 0;
const RECEIVE: u64 = 1;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| threads(&addr, |stream| serve(&stream)))
}

/// Has a ring for each client.
fn serve(stream: &TcpStream) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let fd = Fd(stream.as_raw_fd());
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut received = 0;
    loop {
        let bytes = buffer.as_mut_ptr();
        let send = opcode::Send::new(fd, bytes, received as u32).build(); // <- the mistake
        let send = send.flags(squeue::Flags::IO_LINK).user_data(SEND);
        let receive = opcode::Recv::new(fd, bytes, BUFFER_SIZE as u32).build().user_data(RECEIVE);
        // SAFETY: `buffer` is not used before the receive, which runs last, is complete.
        unsafe { ring.submission().push_multiple(&[send, receive]) }.map_err(io::Error::other)?;
        received = loop {
            let _ = ring.submit_and_wait(1); // after EINTR, nothing is complete
            let mut completions = ring.completion();
            if let Some(receive) = completions.find(|entry| entry.user_data() == RECEIVE) {
                break receive.result();
            }
        };
        if received <= 0 {
            return Ok(()); // EOF, or one of the two has failed
        }
    }
}
