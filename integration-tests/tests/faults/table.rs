//! What each system call may return, and what a server does about it: the policy that the sweep
//! checks and that `docs/errors.md` shows.

/// What a server does when a call fails after the server has announced itself.
///
/// A failure before that has one rule for all calls: the server ends with one line on stderr and
/// status 1, or it does not need the call and serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Tries again at once. No client notices.
    Retries,
    /// Treats all sockets as ready, after a short pause. Clients wait for the pause.
    TriesAll,
    /// Ignores the error: nothing depends on the call. No client notices.
    Ignores,
    /// Closes the connection that the call was about, and no other.
    Closes,
    /// Skips the connection that was being accepted, and takes the next one.
    Skips,
    /// Stops accepting for a while, logs that once, and serves the connected clients.
    Pauses,
    /// Refuses the connection that was being accepted: logs that and closes it.
    Refuses,
    /// Ends with one line on stderr that names the call, and status 1.
    Ends,
}

impl Response {
    /// The words of the page.
    pub fn words(self) -> &'static str {
        match self {
            Self::Retries => "calls it again; no client notices",
            Self::TriesAll => {
                "tries all sockets every 100 ms until the call succeeds; clients wait up to 100 ms and lose nothing"
            }
            Self::Ignores => "ignores the error; no client notices",
            Self::Closes => "closes that connection",
            Self::Skips => "continues with the next connection",
            Self::Pauses => {
                "pauses accepting; calls `accept` again after 100 ms or when a connection closes"
            }
            Self::Refuses => "logs a line and closes the new connection",
            Self::Ends => "ends with one line on stderr and status 1",
        }
    }
}

/// One row of the page: a call, the errors that are treated alike, and the treatment.
pub struct Row {
    pub call: &'static str,
    pub errors: &'static [&'static str],
    pub response: Response,
    /// The reason, for the page.
    pub why: &'static str,
    /// Servers to which the row applies. Empty: all that make the call.
    pub only: &'static [&'static str],
    /// Servers that make the call for another purpose, to which the row does not apply.
    pub except: &'static [&'static str],
    /// Servers to which the row applies, but where the fault is not injected: strace cannot tell
    /// this use of the call from others.
    pub untested: &'static [&'static str],
    /// The fault is injected at the first, second … call of a thread, up to this one.
    pub occurrences: u32,
    /// Whether the fault is also injected at every call.
    pub persists: bool,
    /// Whether SIGTERM ends the server although the fault persists.
    pub stops: bool,
}

const fn row(
    call: &'static str,
    errors: &'static [&'static str],
    response: Response,
    why: &'static str,
) -> Row {
    Row {
        call,
        errors,
        response,
        why,
        only: &[],
        except: &[],
        untested: &[],
        occurrences: 6,
        persists: true,
        stops: true,
    }
}

impl Row {
    const fn only(self, only: &'static [&'static str]) -> Self {
        Self { only, ..self }
    }

    const fn except(self, except: &'static [&'static str]) -> Self {
        Self { except, ..self }
    }

    const fn untested(self, untested: &'static [&'static str]) -> Self {
        Self { untested, ..self }
    }

    /// Injected at the first calls only.
    const fn first(self, occurrences: u32) -> Self {
        Self { occurrences, persists: false, ..self }
    }

    /// The call also serves to report SIGTERM, on the server's own socket pair. There it cannot fail.
    const fn on_stop_socket(self) -> Self {
        Self { stops: false, ..self }
    }

    /// The call as the page names it: as a programmer calls it.
    pub fn name(&self) -> &'static str {
        match self.call {
            "accept4" => "accept",
            "recvfrom" => "read` or `recv",
            "sendto" => "write` or `send",
            "pselect6" => "select",
            "clone3" => "pthread_create",
            "clone" => "fork",
            call => call,
        }
    }
}

/// Servers whose threads or processes block in `accept`, `read` and `write`.
pub const BLOCKING: &[&str] = &[
    "blocking-echo",
    "blocking-echo-fork",
    "blocking-echo-iterative",
    "blocking-echo-pool",
    "blocking-echo-prefork",
];

/// Servers with several threads or processes that read and write. strace counts calls per thread.
pub const THREADED: &[&str] = &[
    "blocking-echo",
    "blocking-echo-fork",
    "blocking-echo-pool",
    "blocking-echo-prefork",
    "epoll-echo-reuseport",
    "epoll-echo-exclusive",
    "epoll-echo-handoff",
    "aio-echo",
    "uring-echo-threads",
    "reactor-chat",
    "reactor-chat-multi",
    "proactor-chat",
];

/// Servers that wait in poll(2). The others call it for stderr only.
const POLLS: &[&str] = &["poll-echo", "aio-echo", "proactor-chat"];

/// Servers on POSIX AIO.
const AIO: &[&str] = &["aio-echo", "proactor-chat"];
/// Servers that set `O_ASYNC` on each connection.
const SIGIO: &[&str] = &["sigio-echo", "sigio-echo-realtime"];
/// The servers that write from several places in memory.
const VECTORED: &[&str] =
    &["reactor-chat-single", "reactor-chat", "reactor-chat-multi", "proactor-chat-simulated"];

/// Errors that the connection at the head of the queue has met (accept(2), "Error handling").
const OF_ONE_CONNECTION: &[&str] = &[
    "ECONNABORTED",
    "EPROTO",
    "ENOPROTOOPT",
    "ENETDOWN",
    "ENETUNREACH",
    "ENONET",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ETIMEDOUT",
];

/// Errors that take nothing from the queue, so that the next call meets them too.
const OF_THE_PROCESS: &[&str] =
    &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "EACCES", "ENOSYS"];

const OF_THE_PEER: &[&str] =
    &["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ENOMEM", "ENOBUFS"];

/// The policy. The order is that of a server's life: start, accept, register, wait, read, write.
pub const ROWS: &[Row] = &[
    row("accept4", OF_ONE_CONNECTION, Response::Skips, "the error belongs to the connection at the head of the queue, and the call has removed that connection (accept(2), \"Error handling\"); after 64 such errors in a row, the server serves its other clients first, and so never spins"),
    row("accept4", OF_THE_PROCESS, Response::Pauses, "no file descriptor or no memory is free, or a seccomp filter or security module forbids the call (EPERM, EACCES, ENOSYS); the call has removed nothing from the queue, so an immediate retry would be a busy loop"),
    row("accept4", &["EINTR"], Response::Retries, "a signal handler ran while the call slept; a call on a non-blocking listener never sleeps, but would be repeated too"),
    row("getpeername", &["ENOTCONN", "ENOBUFS"], Response::Closes, "the peer reset the connection before the server accepted it"),
    row("clone3", &["EAGAIN", "ENOMEM"], Response::Refuses, "the system cannot start a thread for the connection").only(&["blocking-echo"]),
    row("clone3", &["EAGAIN"], Response::Refuses, "glibc cannot start the helper thread that the connection needs").only(AIO),
    row("clone", &["EAGAIN", "ENOMEM", "ENOSYS"], Response::Refuses, "the system cannot start a process for the connection").only(&["blocking-echo-fork"]),
    row("epoll_ctl", &["ENOSPC", "ENOMEM", "EPERM"], Response::Refuses, "the connection cannot be added to the interest list (`EPOLL_CTL_ADD`): the user's limit on watched file descriptors is reached (ENOSPC; fs.epoll.max_user_watches), the kernel has no memory (ENOMEM), or a security module forbids the call (EPERM)").untested(&["reactor-chat"]),
    row("fcntl", &["ENOMEM"], Response::Refuses, "the kernel has no memory for the entry that `F_SETFL` with O_ASYNC makes").only(SIGIO),
    row("epoll_pwait", &["EINTR"], Response::Retries, "a signal handler ran, or the process was stopped and continued (signal(7)); the crate `polling`, which makes the call, repeats it").only(&["reactor-chat"]),
    row("epoll_pwait", &["EBADF", "EINVAL", "EFAULT"], Response::Ends, "a programming error: the server can no longer wait").only(&["reactor-chat"]),
    row("rt_sigtimedwait", &["EINTR", "EAGAIN"], Response::Retries, "a signal handler ran, or the process was stopped and continued (EINTR); or the timeout is over (EAGAIN)").first(6),
    row("wait4", &["EINTR"], Response::Retries, "a signal handler ran while the call slept").only(&["blocking-echo-prefork"]),
    row("clock_nanosleep", &["EINTR"], Response::Retries, "a signal handler ran; std sleeps for the rest of the time"),
    row("epoll_wait", &["EINTR"], Response::Retries, "a signal handler ran, or the process was stopped and continued (signal(7))"),
    row("epoll_wait", &["EBADF", "EINVAL", "EFAULT"], Response::Ends, "a programming error: the server can no longer wait"),
    row("poll", &["EINTR"], Response::Retries, "a signal handler ran (SIGSTOP and SIGCONT do not interrupt this call)").only(POLLS),
    row("poll", &["ENOMEM"], Response::TriesAll, "the kernel has no memory for its copy of the list; trying a socket that is not ready is safe, because no call blocks").only(&["poll-echo"]).first(6),
    row("poll", &["EINVAL"], Response::TriesAll, "the list is longer than RLIMIT_NOFILE, because another process lowered the limit (prlimit)").only(&["poll-echo"]).first(6),
    row("pselect6", &["EINTR"], Response::Retries, "a signal handler ran (SIGSTOP and SIGCONT do not interrupt this call)"),
    row("pselect6", &["ENOMEM"], Response::TriesAll, "the kernel has no memory for its copy of the sets").first(6),
    row("pselect6", &["EBADF", "EINVAL"], Response::Ends, "a programming error: the server can no longer wait"),
    row("recvfrom", OF_THE_PEER, Response::Closes, "the connection has failed (or the kernel has no memory for it, and the server gives it up); bytes that were not read are lost").on_stop_socket().except(AIO),
    row("recvfrom", &["EINTR"], Response::Retries, "a signal handler ran while the call slept; a call on a non-blocking socket never sleeps").only(BLOCKING),
    row("sendto", OF_THE_PEER, Response::Closes, "the connection has failed (or the kernel has no memory for it, and the server gives it up)").on_stop_socket().except(AIO),
    row("sendto", &["EPIPE"], Response::Closes, "the peer has reset the connection (Rust programs ignore SIGPIPE, so the call returns)").on_stop_socket().except(AIO),
    row("sendto", &["EINTR"], Response::Retries, "a signal handler ran while the call slept; a call on a non-blocking socket never sleeps").only(BLOCKING),
    row("writev", OF_THE_PEER, Response::Closes, "the connection has failed (or the kernel has no memory for it, and the server gives it up)").only(VECTORED),
    row("writev", &["EPIPE"], Response::Closes, "the peer has reset the connection (Rust programs ignore SIGPIPE, so the call returns)").only(VECTORED),
    row("read", &["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM"], Response::Closes, "a helper thread of glibc makes the call; the connection is lost").only(&["proactor-chat"]).untested(&["aio-echo"]),
    row("write", &["ECONNRESET", "EPIPE", "ETIMEDOUT", "ENOMEM"], Response::Closes, "a helper thread of glibc makes the call; the connection is lost").only(AIO),
    row("write", &["EIO", "EPIPE", "ENOSPC", "EAGAIN", "EINTR"], Response::Ignores, "the call writes a line of the log to stderr; that line is lost").untested(&["epoll-echo-handoff", "aio-echo", "proactor-chat", "proactor-chat-simulated", "proactor-chat-uring", "reactor-chat", "reactor-chat-multi"]),
    row("shutdown", &["ENOTCONN"], Response::Ignores, "the peer has reset the connection in the meantime"),
    row("io_uring_enter", &["EINTR", "EBUSY", "EAGAIN"], Response::Retries, "a signal handler ran (EINTR), the completion queue is full (EBUSY), or the kernel has no memory for an operation (EAGAIN; the server first pauses for 10 ms)").first(4),
];

/// Calls that a server makes and that no row names, with the reason. A call that is in neither list
/// fails the sweep.
pub const NOT_INJECTED: &[(&str, &str)] = &[
    (
        "close",
        "Linux releases the file descriptor even if `close` returns an error. An injected error would leave the descriptor open, which the kernel never does.",
    ),
    (
        "brk mmap mprotect munmap mremap madvise",
        "The allocator and the C library make these calls. If one fails, Rust's allocator aborts the process, or the library hides the failure. The contract's `limits` cases run servers with a limited address space instead.",
    ),
    (
        "execve access openat newfstatat read prlimit64 arch_prctl set_tid_address set_robust_list rseq sched_getaffinity sched_yield getrandom gettid getpid getppid uname",
        "The loader makes these calls, or a new thread does so before it runs any code of the server. (Some servers also `read` from their self-pipe, which cannot fail.)",
    ),
    (
        "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack",
        "They fail only for invalid arguments.",
    ),
    (
        "tgkill kill",
        "The server sends a standard signal to itself. So the target exists (no ESRCH), the server may send to it (no EPERM), and the signal is not queued (EAGAIN occurs only with real-time signals).",
    ),
    ("exit exit_group", "They do not return."),
    (
        "fcntl ioctl getsockname getsockopt setsockopt",
        "After the start, the servers make these calls only on open sockets and with constant arguments, and the calls fail only for invalid ones. There are two exceptions. `F_SETFL` with O_ASYNC is in the table. `proactor-chat` needs two file descriptors per client: the socket and a duplicate of it. Before it accepts a client, it duplicates another file descriptor (`F_DUPFD_CLOEXEC`), to find out whether a second one is free. If that fails (EMFILE), it pauses accepting. After `accept` it closes that duplicate and duplicates the socket. If this fails, it closes the new connection.",
    ),
    (
        "rt_sigsuspend pause restart_syscall",
        "They always return EINTR, or continue a wait that was interrupted.",
    ),
    (
        "prctl getuid sched_getparam sched_getscheduler timerfd_settime",
        "They fail only for invalid arguments.",
    ),
    (
        "futex",
        "std and glibc wait in loops that check the value again. strace cannot tell a wait from a wake-up, and a wake-up never fails (see the last table).",
    ),
    (
        "recvfrom sendto",
        "Servers on POSIX AIO use these calls only on their self-pipe. They read from and write to clients with `read` and `write`.",
    ),
    (
        "write",
        "The chat servers and epoll-echo-handoff also wake another thread with this call, through an eventfd or a pipe. Both stay open, so the call cannot fail.",
    ),
    (
        "rt_sigqueueinfo",
        "glibc sends the completion signal with this call. It fails with EAGAIN if the user's signal queue is full. The contract's `limits` cases run servers with a short signal queue.",
    ),
    (
        "poll",
        "All servers call `poll` on stderr before they log a line. On one file descriptor it fails only if the arguments are invalid. (The table has the servers that wait for clients with `poll`.)",
    ),
    (
        "epoll_ctl",
        "In `reactor-chat`, the crate `polling` makes this call for each change of interest and for its timer. strace cannot tell an ADD, which can fail, from a MOD, which cannot (see the last table).",
    ),
    (
        "pread64 pwrite64",
        "glibc's AIO tries these calls before `read` and `write`. On a socket they always fail with ESPIPE.",
    ),
];

/// Faults that are not injected although a man page lists the error, with the reason.
pub const CANNOT_HAPPEN: &[(&str, &str)] = &[
    (
        "EAGAIN from `accept` or `recv` while a connection or data is waiting",
        "The kernel returns EAGAIN only if there is nothing to take. Edge-triggered and signal-driven servers rely on this: they wait for the next event. (A read that stops at an urgent mark returns a short count, not EAGAIN.)",
    ),
    (
        "EAGAIN from `send` without an event afterwards",
        "The kernel returns EAGAIN if the send buffer is full or it has no memory for the data. In both cases it remembers that the process waits for space, and reports an event when there is some.",
    ),
    (
        "EINTR from `read`, `recv`, `write`, or `send` on a non-blocking socket",
        "A signal interrupts only a call that sleeps.",
    ),
    (
        "EPIPE when a signal handler writes to the self-pipe",
        "Both ends of the self-pipe stay open for as long as the process lives.",
    ),
    ("a futex wake-up that fails", "FUTEX_WAKE fails only for invalid arguments."),
    (
        "ENOMEM from `poll` in `aio-echo` and `proactor-chat`",
        "These servers wait for two or three file descriptors. The kernel keeps so short a list on its stack.",
    ),
    (
        "ENOSPC or ENOMEM from `epoll_ctl` with `EPOLL_CTL_MOD`",
        "The entry exists, and changing it allocates nothing.",
    ),
];

/// Calls that are made to fail before a server has announced itself, with errors of their man pages.
pub const START: &[(&str, &[&str])] = &[
    ("socket", &["EMFILE", "EAFNOSUPPORT", "ENOBUFS"]),
    ("setsockopt", &["ENOMEM", "ENOPROTOOPT"]),
    ("bind", &["EADDRINUSE", "EACCES", "EADDRNOTAVAIL"]),
    ("listen", &["EADDRINUSE", "ENOBUFS"]),
    ("getsockname", &["ENOBUFS"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("pipe2", &["EMFILE", "ENFILE"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("timerfd_create", &["EMFILE", "ENOMEM"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOSPC", "ENOMEM"]),
    ("fcntl", &["EMFILE", "EINVAL"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("io_uring_setup", &["EPERM", "ENOSYS", "ENOMEM"]),
    ("io_uring_register", &["EINVAL", "ENOMEM"]),
];
