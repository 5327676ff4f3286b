//! Blocking I/O, iterative: one thread serves one client at a time.
//!
//! ```text
//!      application                              kernel
//!      accept ───────────────────────────────▶  wait: until a client connects
//!  (1) read(7) ──────────────────────────────▶  ┐
//!        asleep                                 │ wait: until the client sends
//!        asleep                                 ┘ a message has arrived
//!  (2)   6 bytes ◀───────────────────────────     copy: the same call returns the message
//!  (3) write(7) ─────────────────────────────▶    copy: until the send buffer has taken all of it
//! ```
//!
//! How a message travels: (1) The thread waits in `read`. (2) The same call copies the message and
//! returns. (3) The server writes all of it. If the client does not read, this write waits too, and
//! the server does not read any further: this is the backpressure.
//!
//! The catch: all other clients wait in the kernel's queue until the current client disconnects. A
//! single silent client keeps all of them waiting for ever.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-iterative`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/blocking-echo-iterative.svg`.
//!
//! Use it when: a connection takes very little time (the current date, a health check), or to
//! learn.
//! Limits: one client can delay all others, which the contract forbids (`docs/contract.md`:
//! isolation, fairness). When the listener's queue is full, the kernel ignores new clients, and
//! their `connect` times out.
//! Compare with:
//! - `diff blocking-echo/src/bin/blocking-echo-iterative.rs blocking-echo/src/main.rs`:
//!   `blocking-echo` has a thread for each connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace};

/// Size of the read buffer in bytes.
const BUFFER_SIZE: usize = 16 * 1024;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        exit_on_stop()?; // Pitfall: flag-never-stops
        announce(address);
        serve(&listener)
    })
}

fn serve(listener: &TcpListener) -> ! {
    loop {
        trace!("wait: accept");
        match accept(listener) {
            Accepted::Connection(stream, peer) => serve_client(&stream, peer),
            // `accept` has failed and would fail again at once, so this thread sleeps: an immediate
            // retry would keep a core busy. (WouldBlock is not expected: nothing makes this
            // listener non-blocking.) Pitfall: accept-spins
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
        }
    }
}

fn serve_client(stream: &TcpStream, peer: SocketAddr) {
    match echo(stream) {
        Ok(()) => info!("{peer} disconnected"),
        // ECONNRESET, EPIPE or ETIMEDOUT ends this connection only. Pitfall: peer-error-ends
        Err(error) => info!("{peer} disconnected: {error}"),
    }
}

/// Echoes until EOF or an error.
fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let mut buffer = [0; BUFFER_SIZE];
    loop {
        trace!("wait: read({fd})"); // (1)
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            // A signal handler without SA_RESTART ran (signal(7)). This program installs no such
            // handler, but a library may. Pitfall: eintr-fatal
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        trace!("copy: read({fd}) = {count}"); // (2)
        if count == 0 {
            return Ok(()); // EOF: the client sends no more, and all its bytes have been written
        }
        stream.write_all(&buffer[..count])?; // (3) repeats the call after a short write or EINTR
        trace!("copy: write({fd}) = {count} of {count}");
    }
}
