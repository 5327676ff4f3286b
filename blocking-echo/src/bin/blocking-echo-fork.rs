//! Blocking, a process per connection: the child inherits the connection and serves it alone.
//!
//! ```text
//!      application                              kernel
//!      parent          child of 7
//!      accept = 7 ◀──────────────────────────   somebody has come
//!      fork ─────────▶ close(listener)          both processes hold the connection now
//!      close(7)                                 and now the child alone
//!      accept      (1) read(7) ──────────────▶  ┐ wait: until the peer sends
//!        blocked         blocked                ┘ a message has arrived
//!        blocked   (2)   6 bytes ◀───────────     copy, in the same call
//!        blocked   (3) write(7) ─────────────▶    copy; it blocks until all of it fits
//! ```
//!
//! A message: (1) the child waits in `read`; (2) the same call copies what comes; (3) one write
//! of all of it, which waits in its turn while the peer does not read.
//!
//! Run: `cargo run -p blocking-echo --bin blocking-echo-fork`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/blocking-echo-fork.svg`.
//!
//! Use it when: clients must be kept apart (other users' rights, memory that may be corrupted).
//! Limits: an idle connection costs a process. The descriptors of all clients together are not
//! limited, as each process has a table of its own.
//! Compare with: `diff blocking-echo/src/main.rs blocking-echo/src/bin/blocking-echo-fork.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use log::{info, trace, warn};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork, getpid, getppid};

/// Bytes read at once.
const BUFFER: usize = 16 * 1024;
/// Until `accept` is tried again while descriptors are short. The process has nothing else to do.
const RETRY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        exit_on_stop()?; // Pitfall: flag-never-stops
        // A child that ends stays as a zombie until its parent asks for its status. To ignore
        // SIGCHLD says that nobody will (it is ignored by default too, but that does not say so).
        // Pitfall: zombies
        // SAFETY: no handler is installed.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        serve(listener)
    })
}

fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let parent = getpid();
    loop {
        trace!("wait: accept");
        match accept(&listener) {
            // SAFETY: this process has one thread, so no lock is held that the child would need.
            Accepted::Connection(stream, peer) => match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    // A child that outlived its parent would keep the port.
                    drop(listener);
                    // The parent's end is the child's too; one that came before this was missed.
                    set_pdeathsig(Signal::SIGTERM)?;
                    if getppid() != parent {
                        process::exit(0);
                    }
                    match echo(&stream) {
                        Ok(()) => info!("{peer} left"),
                        Err(error) => info!("{peer} left: {error}"), // Pitfall: peer-error-ends
                    }
                    process::exit(0);
                }
                // Here the connection is closed. Else it would stay open when the child is done.
                Ok(ForkResult::Parent { .. }) => {}
                // The system's limit on processes: this connection is closed, the others go on.
                Err(error) => warn!("{peer} refused: {error}"),
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
