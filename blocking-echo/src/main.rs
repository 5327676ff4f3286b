//! Blocking, a thread per connection: each thread waits in its own read, and the scheduler does
//! the rest.
//!
//! ```text
//!      application                              kernel
//!      thread of 7     thread of 8
//!      read(7) ──────────────────────────────▶  ┐ wait: until its peer sends
//!        blocked   (1) read(8) ──────────────▶  │ ┐
//!        blocked         blocked                │ │ wait: until its peer sends
//!        blocked         blocked                │ ┘ a message for 8 has arrived
//!        blocked   (2)   6 bytes ◀───────────   │   copy, in the same call
//!        blocked   (3) write(8) ─────────────▶  │   copy; it blocks until all of it fits
//! ```
//!
//! A message: (1) the thread waits in `read`; (2) the same call copies what comes; (3) one write
//! of all of it, which waits in its turn while the peer does not read: that is the backpressure.
//!
//! Run: `cargo run -p blocking-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/blocking-echo.svg`.
//!
//! Use it when: connections are some hundreds, or each has real work to do. It is the code that
//! reads best.
//! Limits: an idle connection costs a thread: its stack, with the buffer that the read needs
//! before anything has come (docs/benchmarks: memory). And a thread that blocks can be told
//! nothing: not even to stop.
//! Compare with: `diff blocking-echo/src/bin/blocking-echo-iterative.rs blocking-echo/src/main.rs`
//! (the thread), `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-fork.rs`,
//! `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-pool.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace, warn};

/// On the stack of each thread, in use or not: a quarter of what the servers with one thread take.
const BUFFER: usize = 16 * 1024;
/// Until `accept` is tried again while descriptors are short. The thread has nothing else to do.
const RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?; // Pitfall: flag-never-stops
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        serve(&listener)
    })
}

fn serve(listener: &TcpListener) -> anyhow::Result<()> {
    loop {
        trace!("wait: accept");
        match accept(listener) {
            Accepted::Connection(stream, peer) => {
                let thread = thread::Builder::new().spawn(move || match echo(&stream) {
                    Ok(()) => info!("{peer} left"),
                    Err(error) => info!("{peer} left: {error}"), // Pitfall: peer-error-ends
                });
                // The system's limit on threads: this connection is closed, the others go on.
                if let Err(error) = thread {
                    warn!("{peer} refused: {error}");
                }
            }
            // Pitfall: accept-spins
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(RETRY),
        }
    }
}

/// Copies until the peer has sent its last byte and been sent it back.
fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let mut buffer = [0; BUFFER];
    loop {
        trace!("wait: read({fd})"); // (1)
        let count = match stream.read(&mut buffer) {
            // Pitfall: eintr-fatal
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        };
        trace!("copy: read({fd}) = {count}"); // (2)
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?; // (3)
        trace!("copy: write({fd}), all {count}");
    }
}
