//! Blocking I/O, one thread per connection: each thread waits in its own `read`, and the kernel's
//! scheduler decides which thread runs.
//!
//! ```text
//!      application                              kernel
//!      thread of 7     thread of 8
//!      read(7) ──────────────────────────────▶  ┐ wait: until client 7 sends
//!        asleep    (1) read(8) ──────────────▶  │ ┐
//!        asleep          asleep                 │ │ wait: until client 8 sends
//!        asleep          asleep                 │ ┘ a message for 8 has arrived
//!        asleep    (2)   6 bytes ◀───────────   │   copy: the same call returns the message
//!        asleep    (3) write(8) ─────────────▶  │   copy: until the send buffer has taken all
//! ```
//!
//! How a message travels: (1) The thread of the connection waits in `read`. (2) The same call
//! copies the message and returns. (3) The thread writes all of it. If the client does not read,
//! this write waits too, and the thread does not read any further: this is the backpressure.
//!
//! The catch: a thread that sleeps in a system call cannot check anything, not even whether the
//! server should stop. Therefore the handler of SIGINT and SIGTERM ends the process.
//!
//! Run: `cargo run -p blocking-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/blocking-echo.svg`.
//!
//! Use it when: you serve some hundreds of connections, or each of them has real work to do. Among
//! the servers for many clients, its code is the easiest to read.
//! Limits: an idle connection costs a thread with its stack. The stack holds the read buffer, which
//! must exist before data arrives: `read` takes it as an argument (`docs/benchmarks`: memory). At
//! most 15,000 connections are served; further ones are closed at once, and logged. If the limit on
//! file descriptors (`ulimit -n`) is lower, further clients wait until one disconnects.
//! Compare with:
//! - `diff blocking-echo/src/bin/blocking-echo-iterative.rs blocking-echo/src/main.rs`: the
//!   iterative server serves one client at a time.
//! - `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-fork.rs`: the fork server
//!   has a process for each connection.
//! - `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-pool.rs`: the pool server
//!   has a fixed number of threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace, warn};

/// The most threads, and so the most connections at a time.
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
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        exit_on_stop()?; // Pitfall: flag-never-stops
        announce(address);
        serve(&listener)
    })
}

fn serve(listener: &TcpListener) -> ! {
    // Counts threads: each holds a clone. The reference count is one more, because of this
    // variable.
    let threads = Arc::new(());
    loop {
        trace!("wait: accept");
        match accept(listener) {
            Accepted::Connection(stream, peer) => {
                if Arc::strong_count(&threads) > MAX_THREADS {
                    warn!("{peer} refused: {MAX_THREADS} threads are running");
                    continue; // drops `stream`, which closes the connection
                }
                let running = Arc::clone(&threads);
                let thread = thread::Builder::new().spawn(move || {
                    serve_client(&stream, peer);
                    drop(running);
                });
                // EAGAIN: a limit on threads (RLIMIT_NPROC, pids.max), or no memory. The connection is
                // closed, because the closure that owns `stream` is dropped. Pitfall: spawn-panics
                if let Err(error) = thread {
                    warn!("{peer} refused: cannot start a thread: {error}");
                }
            }
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
