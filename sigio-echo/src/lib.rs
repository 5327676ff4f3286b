//! Signal-driven I/O: making the kernel signal the events of a socket, and taking signals from the
//! queue. Neither nix nor libc has all of this.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::Duration;

use anyhow::Context;
use libc::{SIGRTMIN, c_int, c_long, siginfo_t, timespec};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getpid;

/// The command of fcntl(2) that sets the signal to send instead of SIGIO.
const F_SETSIG: c_int = 10;

/// Makes `socket` non-blocking, and makes the kernel send SIGIO to this process when something
/// happens on it: a connection, data, EOF or an error arrives, or space becomes free after a write
/// that found none. What happened before this call raises no signal.
///
/// # Errors
/// fcntl(2) fails if the kernel has no memory.
pub fn enable_sigio(socket: &impl AsRawFd) -> anyhow::Result<()> {
    // Without an owner, the kernel sends no signal. A thread can be the owner, too (F_SETOWN_EX).
    fcntl(socket, libc::F_SETOWN, getpid().as_raw()).context("fcntl(F_SETOWN)")?;
    fcntl(socket, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK).context("fcntl(F_SETFL)")
}

/// Like [`enable_sigio`], with the signal SIGRTMIN, which queues and carries the file descriptor.
///
/// # Errors
/// As [`enable_sigio`].
pub fn enable_realtime_signals(socket: &impl AsRawFd) -> anyhow::Result<()> {
    fcntl(socket, F_SETSIG, SIGRTMIN()).context("fcntl(F_SETSIG)")?;
    enable_sigio(socket)
}

fn fcntl(socket: &impl AsRawFd, command: c_int, argument: c_int) -> nix::Result<()> {
    // SAFETY: the commands above take a number and touch no memory.
    let result = unsafe { libc::fcntl(socket.as_raw_fd(), command, argument) };
    Errno::result(result).map(drop)
}

/// Returns the set of the real-time signals and `others`.
#[must_use]
pub fn realtime_signals_and(others: &[Signal]) -> SigSet {
    // nix has no names for real-time signals. So take all signals, and remove those that nix can
    // name.
    let mut signals = SigSet::all();
    Signal::iterator().for_each(|named| signals.remove(named));
    signals.extend(others.iter().copied());
    signals
}

/// How `siginfo_t` begins if the signal is about a file descriptor (sigaction(2)).
#[repr(C)]
struct PollInfo {
    signo_errno_code: [c_int; 3],
    band: c_long,
    fd: c_int,
}

/// Takes the next signal of `signals`, which must be blocked, from the queue. If none is pending,
/// waits for at most `timeout`, or without limit (sigtimedwait(2)).
///
/// Returns its number and, if it is a real-time signal, the file descriptor that it is about. The
/// signal with the lowest number comes first. Returns `None` if no signal arrived in time.
///
/// # Errors
/// None in practice: sigtimedwait(2) fails for a timeout that is not valid.
pub fn next_signal(
    signals: &SigSet,
    timeout: Option<Duration>,
) -> anyhow::Result<Option<(c_int, RawFd)>> {
    let timeout = timeout.map(|timeout| timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: c_long::from(timeout.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut info = MaybeUninit::<siginfo_t>::zeroed();
    // SAFETY: the set and the timeout are valid for reading, and `info` for writing.
    let signal = unsafe { libc::sigtimedwait(signals.as_ref(), info.as_mut_ptr(), timeout) };
    match Errno::result(signal) {
        Ok(signal) => {
            // SAFETY: `info` is initialized (it was zeroed before), and `PollInfo` is smaller.
            let info = unsafe { info.as_ptr().cast::<PollInfo>().read() };
            Ok(Some((signal, info.fd)))
        }
        // The time is over, or the process was stopped and continued.
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(error).context("sigtimedwait"),
    }
}

/// Discards all pending SIGRTMIN signals: to ignore a signal discards those that are pending.
pub fn discard_realtime_signals() {
    for action in [libc::SIG_IGN, libc::SIG_DFL] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(SIGRTMIN(), action) };
    }
}
