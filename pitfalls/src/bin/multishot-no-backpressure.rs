//! Mistake: the server returns the buffers of a multishot receive to the kernel at once, however much
//! output is pending. So the receive continues to read.
//!
//! Symptom: the server's memory grows with everything that a client sends and does not read back.
//! (Here each client has a ring of its own, so only this growth shows.)
//!
//! Rule: a multishot receive continues as long as there are buffers. It does not know that the
//! server has output pending for this client. So cancel the receive while output is pending, or
//! submit single receives. To keep the buffers until their bytes are sent is not enough if all
//! clients share the buffers: one client that does not read then uses up those of the others.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin multishot-no-backpressure`
//! 2. In a second terminal: `head -c 200M /dev/zero | nc 127.0.0.1 7000 | sleep 60`
//! 3. In a third terminal: `top`. The server uses 200 MB of memory.
//!
//! Correct: `uring-echo/src/bin/uring-echo-buffers.rs` submits one receive at a time, and the next
//! one when everything is sent.

use std::io;
use std::mem;
use std::net::TcpStream;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use pitfalls::ring::{ClientRing, Completion};
use pitfalls::threads;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| threads(&addr, serve))
}

/// Has a ring for each client, so that only this client's data can use up the memory.
fn serve(stream: TcpStream) -> io::Result<()> {
    let mut ring = ClientRing::new(stream)?;
    ring.receive()?;
    let mut pending = Vec::new();
    let mut sending = false;
    let mut eof = false;
    while !eof || sending {
        for completion in ring.wait()? {
            match completion {
                Completion::Received { result, buffer, more } => {
                    match result {
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                        result => {
                            let bytes = result?;
                            eof |= bytes.is_empty();
                            pending.extend(bytes);
                        }
                    }
                    if let Some(number) = buffer {
                        ring.provide(number)?; // <- the mistake: its bytes are not sent yet
                    }
                    if !more && !eof {
                        ring.receive()?;
                    }
                }
                Completion::Sent(result) => {
                    result?;
                    sending = false;
                }
            }
        }
        if !sending && !pending.is_empty() {
            ring.send(mem::take(&mut pending))?;
            sending = true;
        }
    }
    Ok(())
}
