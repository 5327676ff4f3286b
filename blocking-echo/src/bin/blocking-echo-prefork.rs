//! Blocking I/O, pre-fork: the parent starts a fixed number of worker processes. All of them wait in
//! `accept` on the listener that they inherited, and the parent replaces a worker that ends.
//!
//! ```text
//!      application                              kernel
//!      parent          worker A        worker B
//!      fork ─────────▶ accept                   ┐ wait: until a client connects; each client
//!      fork ─────────────────────────▶ accept   ┘ wakes the worker that has waited longest
//!      wait              = 4 ◀───────────────   a client has connected
//!        asleep    (1) read(4) ──────────────▶  ┐ wait: until the client sends
//!        asleep          asleep                 ┘ a message has arrived
//!        asleep    (2)   6 bytes ◀───────────     copy: the same call returns the message
//!        asleep    (3) write(4) ─────────────▶    copy: until the send buffer has taken all
//! ```
//!
//! How a message travels: (1) The worker that accepted the connection waits in `read`. (2) The same
//! call copies the message and returns. (3) The worker writes all of it. If the client does not read,
//! this write waits too, and the worker does not read any further: this is the backpressure.
//!
//! The catch: at most as many clients are served as there are workers. The others wait in the kernel's
//! queue. And the parent must pause before it replaces a worker: if each new worker ended at once, the
//! parent would do nothing but call `fork`. A worker must end when its parent ends. Otherwise it would
//! keep the port in use.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-prefork`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/blocking-echo-prefork.svg`.
//!
//! Use it when: a crash must end one connection only, and connections are too short for a `fork` each.
//! Limits: a client that finds no free worker is not refused. It waits. The workers isolate crashes,
//! not attackers, as in `blocking-echo-fork`.
//! Compare with:
//! - `diff blocking-echo/src/bin/blocking-echo-fork.rs blocking-echo/src/bin/blocking-echo-prefork.rs`:
//!   the parent accepts, and starts a process for each connection.
//! - `diff blocking-echo/src/bin/blocking-echo-pool.rs blocking-echo/src/bin/blocking-echo-prefork.rs`:
//!   the same with threads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::{Accepted, Arg, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace, warn};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::wait;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

const WORKERS: Arg = Arg {
    name: "WORKERS",
    default: "16",
    meaning: "number of processes, and of clients served at a time; other clients wait",
};
/// The most workers that can be asked for.
const MAX_WORKERS: usize = 1000;
/// Size of the read buffer in bytes.
const BUFFER_SIZE: usize = 16 * 1024;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Time until a worker that has ended is replaced.
const FORK_RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR, WORKERS], |[addr, workers]| {
        let workers: usize =
            workers.parse().with_context(|| format!("WORKERS is a number, not {workers:?}"))?;
        ensure!(
            (1..=MAX_WORKERS).contains(&workers),
            "WORKERS is {workers}, not 1 to {MAX_WORKERS}"
        );
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        exit_on_stop()?; // the workers inherit the handlers. Pitfall: flag-never-stops
        // The program that started this one may ignore SIGCHLD, and execve(2) keeps that. `wait`
        // would then return no worker (wait(2), "NOTES").
        // SAFETY: no handler function is installed.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.context("sigaction(SIGCHLD)")?;
        for _ in 0..workers {
            start_worker(&listener).with_context(|| format!("cannot start {workers} workers"))?;
        }
        announce(address);
        replace_workers(&listener)
    })
}

fn start_worker(listener: &TcpListener) -> anyhow::Result<()> {
    let parent = getpid();
    // SAFETY: this process has one thread. So no other thread can hold a lock, such as that of the
    // allocator, which would stay locked in the child for ever.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => {
            end_when_parent_ends(parent);
            serve(listener)
        }
        ForkResult::Parent { .. } => Ok(()),
    }
}

/// The parent's loop. A worker that has ended stays a zombie until `wait` returns it.
/// Pitfalls: zombies, worker-not-replaced
fn replace_workers(listener: &TcpListener) -> anyhow::Result<()> {
    loop {
        match wait() {
            Ok(status) => warn!("a worker has ended: {status:?}"),
            Err(Errno::EINTR) => continue,
            // nix has no name for the real-time signal that killed the worker.
            Err(Errno::EINVAL) => warn!("a worker has ended"),
            Err(error) => return Err(error).context("wait"), // it always has children
        }
        thread::sleep(FORK_RETRY); // Pitfall: worker-replaced-at-once
        // EAGAIN: a limit on processes (RLIMIT_NPROC, pids.max), or ENOMEM.
        while let Err(error) = start_worker(listener) {
            warn!("cannot replace a worker: {error:#}");
            thread::sleep(FORK_RETRY);
        }
    }
}

fn serve(listener: &TcpListener) -> ! {
    loop {
        // Pitfall: thundering-herd
        trace!("wait: accept");
        match accept(listener) {
            Accepted::Connection(stream, peer) => serve_client(&stream, peer),
            // `accept` has failed and would fail again at once, so this process sleeps: an immediate
            // retry would keep a core busy. (WouldBlock is not expected: nothing makes this
            // listener non-blocking.) Pitfall: accept-spins
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
        }
    }
}

/// Makes the kernel send SIGTERM to this worker when its parent ends, even by SIGKILL. (Strictly, when
/// the forking *thread* ends. The parent has one thread.) Pitfall: workers-outlive-parent
fn end_when_parent_ends(parent: Pid) {
    if let Err(error) = set_pdeathsig(Signal::SIGTERM) {
        warn!("prctl(PR_SET_PDEATHSIG): {error}");
    }
    // The parent may have ended before that call. Then no signal is sent, and the kernel has
    // already given the worker a new parent.
    if getppid() != parent {
        process::exit(0);
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
