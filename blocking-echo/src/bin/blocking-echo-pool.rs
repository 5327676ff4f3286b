//! Blocking, a fixed pool of threads: all of them accept on one listener, and each serves the
//! client that it got until that client leaves.
//!
//! ```text
//!      application                              kernel
//!      thread A        thread B
//!      accept ───────────────────────────────▶  wait: until somebody comes;
//!        blocked       accept ───────────────▶  of all who wait here, one is woken
//!        blocked         = 7 ◀───────────────   somebody has come
//!        blocked   (1) read(7) ──────────────▶  ┐ wait: until the peer sends
//!        blocked         blocked                ┘ a message has arrived
//!        blocked   (2)   6 bytes ◀───────────     copy, in the same call
//!        blocked   (3) write(7) ─────────────▶    copy; it blocks until all of it fits
//! ```
//!
//! A message: (1) the thread waits in `read`; (2) the same call copies what comes; (3) one write
//! of all of it, which waits in its turn while the peer does not read.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-pool`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/blocking-echo-pool.svg`.
//!
//! Use it when: connections are short (a request, an answer) and the work at once must be bounded.
//! Limits: as many clients as threads. The others wait in the kernel's queue until one leaves: with
//! as many silent clients as threads the server is silent too.
//! Compare with: `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-pool.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{Accepted, Arg, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace};

const THREADS: Arg =
    Arg { name: "THREADS", default: "64", meaning: "clients served at once; the others wait" };
/// On the stack of each thread, in use or not: a quarter of what the servers with one thread take.
const BUFFER: usize = 16 * 1024;
/// Until `accept` is tried again while descriptors are short. The thread has nothing else to do.
const RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR, THREADS], |[addr, threads]| {
        let threads: NonZeroUsize =
            threads.parse().with_context(|| format!("THREADS is {threads:?}"))?;
        exit_on_stop()?; // Pitfall: flag-never-stops
        let listener = Arc::new(listen(&addr)?);
        announce(listener.local_addr()?);
        for _ in 1..threads.get() {
            let listener = Arc::clone(&listener);
            let thread = thread::Builder::new().spawn(move || serve(&listener));
            thread.with_context(|| format!("cannot start {threads} threads"))?;
        }
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
