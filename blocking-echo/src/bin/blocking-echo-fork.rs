//! Blocking I/O, one process per connection: the parent accepts, and a child process inherits the
//! connection and serves it.
//!
//! ```text
//!      application                              kernel
//!      parent          child of 7
//!      accept = 7 ◀──────────────────────────   a client has connected
//!      fork ─────────▶ close(listener)          both processes have the connection open
//!      close(7)                                 only the child has it open
//!      accept      (1) read(7) ──────────────▶  ┐ wait: until the client sends
//!        asleep          asleep                 ┘ a message has arrived
//!        asleep    (2)   6 bytes ◀───────────     copy: the same call returns the message
//!        asleep    (3) write(7) ─────────────▶    copy: until the send buffer has taken all
//! ```
//!
//! How a message travels: (1) The child waits in `read`. (2) The same call copies the message and
//! returns. (3) The child writes all of it. If the client does not read, this write waits too, and
//! the child does not read any further: this is the backpressure.
//!
//! The catch: after `fork`, both processes have the listener and the connection open, so each must
//! close the one that it does not use. A child that has ended must not stay a zombie. A child must
//! end when its parent ends. Otherwise it would run until its client disconnects, which may be
//! never.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-fork`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/blocking-echo-fork.svg`.
//!
//! Use it when: a crash or corrupted memory must end one connection only, or each child is to run
//! with the rights of another user.
//! Limits: an idle connection costs a process. In this server all children run as the same user. So
//! it isolates crashes, not attackers: a child can access the memory of another through
//! `/proc/PID/mem`, unless the Yama security module forbids it (`ptrace_scope`). The limit on file
//! descriptors is no limit on connections here, because each process has a descriptor table of its
//! own.
//! Compare with:
//! - `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-fork.rs`: `blocking-echo`
//!   has a thread for each connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace, warn};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

/// Size of the read buffer in bytes.
const BUFFER_SIZE: usize = 16 * 1024;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let address = listener.local_addr()?;
        exit_on_stop()?; // Pitfall: flag-never-stops
        // A child that ends stays a zombie until its parent calls wait(2). If SIGCHLD is explicitly
        // ignored, there are no zombies (wait(2), "NOTES"). The default action, SIG_DFL, ignores
        // SIGCHLD too, but does not prevent zombies. Pitfall: zombies
        // SAFETY: no handler function is installed.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.context("sigaction(SIGCHLD)")?;
        announce(address);
        serve(listener)
    })
}

fn serve(listener: TcpListener) -> ! {
    let parent = getpid();
    loop {
        trace!("wait: accept");
        match accept(&listener) {
            // SAFETY: this process has one thread. So no other thread can hold a lock, such as that
            // of the allocator, which would stay locked in the child for ever.
            Accepted::Connection(stream, peer) => match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    drop(listener); // A child that has it open would keep the port in use.
                    end_when_parent_ends(parent);
                    serve_client(&stream, peer);
                    process::exit(0);
                }
                // `stream` is dropped here. That closes the parent's descriptor. If the parent kept
                // it open, the connection would stay open after the child has ended.
                Ok(ForkResult::Parent { .. }) => {}
                // EAGAIN: a limit on processes (RLIMIT_NPROC, pids.max), or ENOMEM.
                Err(error) => warn!("{peer} refused: fork: {error}"),
            },
            // `accept` has failed and would fail again at once, so this thread sleeps: an immediate
            // retry would keep a core busy. (WouldBlock is not expected: nothing makes this
            // listener non-blocking.) Pitfall: accept-spins
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
        }
    }
}

/// Makes the kernel send SIGTERM to this child when its parent ends. (Strictly, when the forking
/// *thread* ends. The parent has one thread.)
fn end_when_parent_ends(parent: Pid) {
    if let Err(error) = set_pdeathsig(Signal::SIGTERM) {
        warn!("prctl(PR_SET_PDEATHSIG): {error}");
    }
    // The parent may have ended before that call. Then no signal is sent, and the kernel has
    // already given the child a new parent.
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
