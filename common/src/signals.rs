//! SIGINT and SIGTERM, as each model can hear them.
//!
//! All three install their handlers with `SA_RESTART`, and std's `accept` retries `EINTR` besides:
//! a signal does not get a thread out of `accept(2)` or `read(2)`.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// For a loop that waits for many descriptors: a socket that is readable from the first
/// SIGINT or SIGTERM on.
///
/// It is the self-pipe trick (D. J. Bernstein): the handler writes a byte, and does nothing else. A
/// flag would do only with luck: a signal that comes after the loop has looked at it and before it
/// waits would be heard when something else ends the wait.
/// Pitfalls: flag-never-stops, handler-prints.
///
/// # Errors
/// Where the process is out of descriptors.
pub fn stop_socket() -> io::Result<UnixStream> {
    let (stop, handler) = UnixStream::pair()?;
    low_level::pipe::register(SIGINT, handler.try_clone()?)?;
    low_level::pipe::register(SIGTERM, handler)?;
    Ok(stop)
}

/// For a loop that never waits for long, or that waits for signals: a flag that is true from the
/// first SIGINT or SIGTERM on.
///
/// # Errors
/// None in practice: `sigaction(2)` fails for signals that cannot be caught.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, Arc::clone(&stop))?;
    flag::register(SIGTERM, Arc::clone(&stop))?;
    Ok(stop)
}

/// For threads that block in `accept(2)`, `read(2)` and `write(2)` and so can look at nothing
/// else: the handler ends the process with status 0, and the kernel closes the sockets.
///
/// It calls `_exit(2)`, which a handler may (signal-safety(7)), and not `exit(3)`.
/// Pitfalls: flag-never-stops, handler-prints.
///
/// # Errors
/// None in practice: `sigaction(2)` fails for signals that cannot be caught.
pub fn exit_on_stop() -> io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    flag::register_conditional_shutdown(SIGINT, 0, Arc::clone(&always))?;
    flag::register_conditional_shutdown(SIGTERM, 0, always)?;
    Ok(())
}
