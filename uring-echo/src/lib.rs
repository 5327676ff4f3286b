//! What the `io_uring` servers share: the ring, its queue, accepting, and buffers.

use std::collections::TryReserveError;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, RawFd};
use std::ptr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use common::Accepted;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use libc::c_int;
use log::{debug, trace};
use socket2::SockRef;

mod buffers;
pub use buffers::{Buffers, Filled};

/// The pause after the kernel had no memory for an operation.
const MEMORY_RETRY: Duration = Duration::from_millis(10);
/// Memory in bytes that must remain available when a client is admitted.
const MEMORY_RESERVE: usize = 1024 * 1024;

/// The operations that the servers use, with the version of Linux that added them.
const OPERATIONS: [(u8, &str); 5] = [
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD (Linux 5.1)"),
    (opcode::Writev::CODE, "IORING_OP_WRITEV (Linux 5.1)"),
    (opcode::Accept::CODE, "IORING_OP_ACCEPT (Linux 5.5)"),
    (opcode::Send::CODE, "IORING_OP_SEND (Linux 5.6)"),
    (opcode::Recv::CODE, "IORING_OP_RECV (Linux 5.6)"),
];

/// Sets up a ring that takes up to `entries` operations per system call. Only the calling thread
/// may use it.
///
/// By default the kernel interrupts the thread to finish an operation whose socket became ready.
/// With `DEFER_TASKRUN` the kernel does that work during the next wait of the thread, which is
/// cheaper. The kernel must then know the one thread that waits (`SINGLE_ISSUER`).
///
/// # Errors
/// The kernel does not permit the ring or lacks an operation. The message names the call and the
/// usual reasons.
pub fn new_ring(entries: u32) -> anyhow::Result<IoUring> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)
        .map_err(|error| anyhow!("io_uring_setup: {error}{}", usual_reason(&error)))?;

    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| anyhow!("io_uring_register(PROBE): {error}"))?;
    for (code, name) in OPERATIONS {
        ensure!(probe.is_supported(code), "io_uring: the kernel lacks {name}");
    }
    Ok(ring)
}

/// Returns the usual reason why the kernel refuses to set up a ring.
fn usual_reason(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) => " (IORING_SETUP_DEFER_TASKRUN needs Linux 6.1)",
        Some(libc::ENOMEM) => {
            " (no memory, or the memory limit of the cgroup; before Linux 5.12 RLIMIT_MEMLOCK)"
        }
        Some(libc::EPERM | libc::EACCES) => {
            " (kernel.io_uring_disabled, or the security policy of the container)"
        }
        Some(libc::ENOSYS) => " (a kernel without io_uring, or a container that hides it)",
        _ => "",
    }
}

/// Submits all queued operations, and waits until `count` operations have completed or `timeout` is
/// over (`io_uring_enter(2)`).
///
/// # Errors
/// The call has failed, and would fail again.
pub fn enter(ring: &IoUring, count: usize, timeout: Option<Duration>) -> anyhow::Result<()> {
    let timeout = timeout.map(Timespec::from);
    let mut arguments = SubmitArgs::new();
    if let Some(timeout) = &timeout {
        arguments = arguments.timespec(timeout);
    }
    match ring.submitter().submit_with_args(count, &arguments) {
        Err(error) if !is_temporary(&error) => return Err(error).context("io_uring_enter"),
        // No memory for an operation: an immediate retry would keep a core busy.
        Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(MEMORY_RETRY),
        _ => {}
    }
    Ok(())
}

/// Puts an operation into the queue of `ring`. If the queue is full, first submits what is in it.
///
/// The kernel may take no more operations until the process has taken completions (EBUSY). So this
/// function moves the completions to `completions`. The caller must process them before it waits
/// again.
///
/// # Errors
/// As [`enter`].
///
/// # Safety
/// The buffer of the operation, if it has one, must stay valid and unused until the completion.
pub unsafe fn queue(
    ring: &mut IoUring,
    operation: &squeue::Entry,
    completions: &mut Vec<cqueue::Entry>,
) -> anyhow::Result<()> {
    // SAFETY: the caller keeps the buffer valid and unused until the completion.
    while unsafe { ring.submission().push(operation) }.is_err() {
        enter(ring, 0, None)?;
        completions.extend(ring.completion());
    }
    Ok(())
}

/// Makes an accept of one connection.
#[must_use]
pub fn accept_operation(listener: RawFd) -> squeue::Entry {
    // The address of the peer is not asked for: an operation could outlive the memory for it.
    let accept = opcode::Accept::new(Fd(listener), ptr::null_mut(), ptr::null_mut());
    accept.flags(libc::SOCK_CLOEXEC).build()
}

/// Returns whether the call may be repeated: a signal handler ran (EINTR, pitfall: eintr-fatal),
/// the timeout is over (ETIME), the kernel has no memory (EAGAIN), or it takes no more operations
/// until the process has taken completions (EBUSY).
fn is_temporary(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY))
}

/// Returns the result of an operation as a system call would. The kernel reports an error as a
/// negative `errno`.
///
/// # Errors
/// The operation has failed.
pub fn io_result(completion: &cqueue::Entry) -> io::Result<usize> {
    let result = completion.result();
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Returns what the result of an accept means, as [`common::accept`] does. `None` means that only
/// this one connection failed.
#[must_use]
pub fn accept_result(result: io::Result<usize>) -> Option<Accepted> {
    let fd = match result {
        Ok(fd) => fd as RawFd,
        Err(error) => return Accepted::from_result(Err(error)),
    };
    // SAFETY: the kernel has opened this file descriptor for the process, and nothing else owns it.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    // ENOTCONN: the peer has reset the connection while it was in the queue. accept(2) returns the
    // address of such a peer, but here it is asked for too late.
    Accepted::from_result(stream.peer_addr().map(|peer| (stream, peer)))
}

/// Allocates a buffer with `size` bytes of capacity, if a reserve of 1 MiB could be allocated, too.
///
/// Rust ends the process when an allocation fails; only the `try_` functions return an error. The
/// reserve leaves memory for the many small allocations that do not go through the `try_`
/// functions.
///
/// malloc maps the buffer separately (`mallopt`). Its pages then cost nothing until they are used,
/// and `free` returns them to the system. On the heap they would stay: the heap shrinks only from its
/// top, and a small block that is still in use keeps the freed memory below it.
///
/// # Errors
/// There is not enough memory or address space.
pub fn allocate_buffer(size: usize) -> Result<Vec<u8>, TryReserveError> {
    #[cfg(target_env = "gnu")] // other C libraries do not have it
    // SAFETY: the call sets a number.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, size as c_int)
    };
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(size + MEMORY_RESERVE)?;
    buffer.shrink_to(size);
    Ok(buffer)
}

/// Returns a copy of the bytes that a send of `bytes` did not send.
///
/// Nothing was sent if it found no space (EAGAIN), or if SIGSTOP interrupted it (EINTR).
///
/// # Errors
/// The send has failed, or there is no memory for the copy.
pub fn unsent(fd: RawFd, bytes: &[u8], result: io::Result<usize>) -> io::Result<Vec<u8>> {
    let count = match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
        result => result?,
    };
    trace!("copy: send({fd}) = {count} of {}", bytes.len());
    let mut rest = Vec::new();
    rest.try_reserve_exact(bytes.len() - count)?;
    rest.extend_from_slice(&bytes[count..]);
    Ok(rest)
}

/// Ends the accept that is in flight. Otherwise it keeps the port in use until the kernel has cleaned
/// up after the process.
pub fn end_accept(listener: &TcpListener) {
    // The server ends anyway, so a failure changes nothing.
    if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
        debug!("shutdown(listener): {error}");
    }
}
