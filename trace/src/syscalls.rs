//! What each system call does, by its name.

/// The direction in which a call copies bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    In,
    /// From the server to the client.
    Out,
}

/// Whether a call does nothing but wait.
pub fn is_wait(name: &str) -> bool {
    matches!(
        name,
        "epoll_wait"
            | "epoll_pwait"
            | "epoll_pwait2"
            | "poll"
            | "ppoll"
            | "select"
            | "pselect6"
            | "rt_sigsuspend"
            | "rt_sigtimedwait"
            | "pause"
            | "futex"
            | "nanosleep"
            | "clock_nanosleep"
            | "io_uring_enter"
            | "wait4"
    )
}

/// Whether the kernel itself may copy for a socket while a thread waits in this call.
pub fn is_completion_wait(name: &str) -> bool {
    name == "io_uring_enter"
}

/// The direction in which a call copies bytes, if it copies any.
pub fn copy_direction(name: &str) -> Option<Direction> {
    match name {
        "read" | "readv" | "pread64" | "preadv" | "recvfrom" | "recvmsg" | "recvmmsg" => {
            Some(Direction::In)
        }
        "write" | "writev" | "pwrite64" | "pwritev" | "sendto" | "sendmsg" | "sendmmsg" => {
            Some(Direction::Out)
        }
        _ => None,
    }
}

/// Whether a call is bookkeeping: it neither waits nor copies, and its label may be left out.
pub fn is_minor(name: &str) -> bool {
    matches!(
        name,
        "setsockopt"
            | "getsockopt"
            | "getsockname"
            | "getpeername"
            | "ioctl"
            | "fcntl"
            | "close"
            | "rt_sigreturn"
            | "exit"
            | "socket"
            | "wait4"
    )
}

/// Whether a call is left out of the figures: it belongs to the server's log, to its end, or to
/// the check that debug builds of std make before each `close`.
pub fn is_hidden(name: &str, args: &str) -> bool {
    // The servers check with poll(2) that stderr is writable before they write a line of the log.
    let logs = (name == "write" && (args.starts_with("2<") || args.starts_with("2,")))
        || (name.ends_with("poll") && args.starts_with("[{fd=2<"));
    logs || (name == "fcntl" && args.ends_with("F_GETFD"))
        || name.starts_with("exit")
        || name == "prctl"
}
