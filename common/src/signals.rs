//! Three ways to handle SIGINT and SIGTERM, one for each kind of wait.
//!
//! A signal does not end a blocking `accept` or `read`: signal-hook installs its handlers with
//! `SA_RESTART`, so the kernel resumes the call. A handler also replaces an inherited `SIG_IGN`,
//! which a shell sets for SIGINT if it starts a command with `&`.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// For a loop that waits for many file descriptors: returns a socket that becomes readable at the
/// first SIGINT or SIGTERM.
///
/// This is the self-pipe trick (D. J. Bernstein). The signal handler only writes one byte to the other
/// end of a socket pair. A flag would not do: a signal that arrives between the check of the flag and
/// the wait would not end the wait. Pitfalls: flag-never-stops, handler-prints
///
/// # Errors
/// The process is out of file descriptors. The message names the call.
pub fn stop_socket() -> anyhow::Result<UnixStream> {
    let (stop, handler_end) = UnixStream::pair().context("socketpair")?;
    let second = handler_end.try_clone().context("fcntl(F_DUPFD_CLOEXEC)")?;
    low_level::pipe::register(SIGINT, handler_end).context("sigaction(SIGINT)")?;
    low_level::pipe::register(SIGTERM, second).context("sigaction(SIGTERM)")?;
    Ok(stop)
}

/// For a loop that never waits for long, or that waits for signals: returns a flag that becomes true
/// at the first SIGINT or SIGTERM.
///
/// # Errors
/// None in practice: sigaction(2) fails only for signals that cannot be caught.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, Arc::clone(&stop))?;
    flag::register(SIGTERM, Arc::clone(&stop))?;
    Ok(stop)
}

/// For threads that block in `accept`, `read` and `write`. A blocked thread cannot check a flag or
/// another socket, so the signal handler ends the process, with status 0. The kernel closes the
/// sockets.
///
/// The handler calls _exit(2), which is async-signal-safe (signal-safety(7)). exit(3) is not.
/// Pitfalls: flag-never-stops, handler-prints
///
/// # Errors
/// None in practice: sigaction(2) fails only for signals that cannot be caught.
pub fn exit_on_stop() -> io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    flag::register_conditional_shutdown(SIGINT, 0, Arc::clone(&always))?;
    flag::register_conditional_shutdown(SIGTERM, 0, always)?;
    Ok(())
}

/// Unblocks SIGINT and SIGTERM in the calling thread.
///
/// The parent process may have blocked them, and execve(2) keeps the signal mask. Installing a
/// handler does not unblock a signal. Pitfall: blocked-signals-inherited
pub(crate) fn unblock_stop_signals() {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let _ = signals.thread_unblock(); // fails only for an invalid argument
}
