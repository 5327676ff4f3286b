//! Blocking, bare: one thread serves one client after another.
//!
//! ```text
//!      application                              kernel
//!      accept ───────────────────────────────▶  wait: until somebody comes
//!  (1) read(7) ──────────────────────────────▶  ┐
//!        blocked                                │ wait: until the peer sends
//!        blocked                                ┘ a message has arrived
//!  (2)   6 bytes ◀───────────────────────────     copy, in the same call
//!  (3) write(7) ─────────────────────────────▶    copy; it blocks until all of it fits
//! ```
//!
//! A message: (1) the thread waits in `read`; (2) the same call copies what comes; (3) one write
//! of all of it, which waits in its turn while the peer does not read.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-iterative`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/blocking-echo-iterative.svg`.
//!
//! Use it when: a connection is served in no time (a date, a health check), or to learn.
//! Limits: whoever connects second waits, in the kernel's queue, until the first has left; one
//! client that goes silent keeps all the others out. So this server keeps neither the isolation
//! nor the fairness of the others.
//! Compare with: `diff blocking-echo/src/bin/blocking-echo-iterative.rs blocking-echo/src/main.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace};

/// Bytes read at once.
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
            Accepted::Connection(stream, peer) => match echo(&stream) {
                Ok(()) => info!("{peer} left"),
                Err(error) => info!("{peer} left: {error}"), // Pitfall: peer-error-ends
            },
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
