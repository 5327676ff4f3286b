//! Mistake: when a receive fails with ENOBUFS, the server submits it again at once, although pending
//! output still occupies all buffers.
//!
//! Symptom: when a client does not read, the server uses a full core.
//!
//! Rule: a receive that selects a provided buffer completes with ENOBUFS if there is none, whether
//! data is there or not. It completes at once, and so does the next one. The server has to wait
//! until it has provided a buffer again.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin enobufs-spins`
//! 2. In a second terminal: `head -c 200M /dev/zero | nc 127.0.0.1 7000 | sleep 60`
//! 3. In a third terminal: `top`. The server uses 100 % of a core.
//!
//! Correct: `serve` in `uring-echo/src/bin/uring-echo-buffers.rs` queues a failed receive again
//! when a buffer is free.

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

/// Has a ring with four provided buffers for each client.
fn serve(stream: TcpStream) -> io::Result<()> {
    let mut ring = ClientRing::new(stream)?;
    ring.receive()?;
    let mut pending = Vec::new();
    let mut full_buffers = Vec::new(); // those whose bytes are in `pending`
    let mut buffers_in_flight = Vec::new(); // those whose bytes are being sent
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
                    full_buffers.extend(buffer);
                    if !more && !eof {
                        ring.receive()?; // <- the mistake, after ENOBUFS
                    }
                }
                Completion::Sent(result) => {
                    result?;
                    sending = false;
                    for number in buffers_in_flight.drain(..) {
                        ring.provide(number)?;
                    }
                }
            }
        }
        if !sending && !pending.is_empty() {
            ring.send(mem::take(&mut pending))?;
            buffers_in_flight = mem::take(&mut full_buffers);
            sending = true;
        }
    }
    Ok(())
}
