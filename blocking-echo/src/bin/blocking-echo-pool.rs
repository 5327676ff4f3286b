//! Blocking I/O, a fixed pool of threads: all threads wait in `accept` on the same listener. Each
//! serves the client that it accepted until that client disconnects.
//!
//! ```text
//!      application                              kernel
//!      thread A        thread B
//!      accept ───────────────────────────────▶  wait: until a client connects;
//!        asleep        accept ───────────────▶  each client wakes one waiting thread
//!        asleep          = 7 ◀───────────────   a client has connected
//!        asleep    (1) read(7) ──────────────▶  ┐ wait: until the client sends
//!        asleep          asleep                 ┘ a message has arrived
//!        asleep    (2)   6 bytes ◀───────────     copy: the same call returns the message
//!        asleep    (3) write(7) ─────────────▶    copy: until the send buffer has taken all
//! ```
//!
//! How a message travels: (1) The thread that accepted the connection waits in `read`. (2) The same
//! call copies the message and returns. (3) The thread writes all of it. If the client does not
//! read, this write waits too, and the thread does not read any further: this is the backpressure.
//!
//! The catch: at most as many clients are served as there are threads. Further clients wait in the
//! kernel's queue until one disconnects. So 64 silent clients block a pool of 64 threads.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-pool`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/blocking-echo-pool.svg`.
//!
//! Use it when: connections are short (one request, one response), and you want a limit on the
//! number that is served at a time.
//! Limits: a client that finds no free thread is not refused. It waits. All threads and their
//! stacks exist from the start.
//! Compare with:
//! - `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-pool.rs`: `blocking-echo`
//!   has a thread for each connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::{Accepted, Arg, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace};

const THREADS: Arg = Arg {
    name: "THREADS",
    default: "64",
    meaning: "number of threads, and of clients served at a time; other clients wait",
};
/// The most threads that can be asked for.
///
/// A thread needs four memory mappings: its stack, the stack of its signal handlers, and a guard
/// page for each. A process may have 65,530 mappings by default (`vm.max_map_count`). If a new
/// thread cannot map the stack of its signal handlers, std panics, and a panic ends the process.
const MAX_THREADS: usize = 15_000;
/// Size of the read buffer in bytes. Each thread has a buffer on its stack. So the buffer is
/// smaller than `common::BUFFER_SIZE`.
const BUFFER_SIZE: usize = 16 * 1024;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR, THREADS], |[addr, threads]| {
        let threads: usize =
            threads.parse().with_context(|| format!("THREADS is a number, not {threads:?}"))?;
        ensure!(
            (1..=MAX_THREADS).contains(&threads),
            "THREADS is {threads}, not 1 to {MAX_THREADS}"
        );
        let listener = Arc::new(listen(&addr)?);
        let address = listener.local_addr()?;
        exit_on_stop()?; // Pitfall: flag-never-stops
        for _ in 1..threads {
            let listener = Arc::clone(&listener);
            let thread = thread::Builder::new().spawn(move || serve(&listener));
            thread.with_context(|| format!("cannot start {threads} threads"))?;
        }
        announce(address);
        serve(&listener) // the main thread belongs to the pool
    })
}

fn serve(listener: &TcpListener) -> ! {
    loop {
        // Pitfall: thundering-herd
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
