//! What each system call may return, and what a server does about it: the policy that the sweep
//! checks and that `docs/errors.md` shows.

/// What a server does when a call fails after the server has announced itself.
///
/// A failure before that has one rule for all calls: the server ends with one line on stderr and
/// status 1, or the call is not essential and the server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Tries again. No client notices.
    Retries,
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
            Self::Retries => "tries again; no client notices",
            Self::Ignores => "ignores the error; no client notices",
            Self::Closes => "closes that connection",
            Self::Skips => "takes the next connection",
            Self::Pauses => {
                "pauses accepting, and tries again after 100 ms or when a connection closes"
            }
            Self::Refuses => "refuses that connection with a log line",
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
    /// Servers to which it does not apply.
    pub except: &'static [&'static str],
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
pub const BLOCKING: &[&str] =
    &["blocking-echo", "blocking-echo-fork", "blocking-echo-iterative", "blocking-echo-pool"];

/// Servers with several threads or processes that read and write. strace counts calls per thread.
pub const THREADED: &[&str] = &[
    "blocking-echo",
    "blocking-echo-fork",
    "blocking-echo-pool",
    "aio-echo",
    "uring-echo-threads",
    "reactor-chat",
    "proactor-chat",
];

/// Servers that wait in poll(2). The others call it for stderr only.
const POLLS: &[&str] = &["poll-echo", "aio-echo", "proactor-chat"];

/// Servers on POSIX AIO.
const AIO: &[&str] = &["aio-echo", "proactor-chat"];
/// Servers that set `O_ASYNC` on each connection.
const SIGIO: &[&str] = &["sigio-echo", "sigio-echo-realtime"];
/// The servers that write from several places in memory.
const VECTORED: &[&str] = &["reactor-chat", "proactor-chat-simulated"];

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
    row("accept4", OF_ONE_CONNECTION, Response::Skips, "the error belongs to the connection at the head of the queue, which the call has removed"),
    row("accept4", OF_THE_PROCESS, Response::Pauses, "the call has removed nothing from the queue, so a retry at once would be a busy loop"),
    row("accept4", &["EINTR"], Response::Retries, "a signal handler ran"),
    row("getpeername", &["ENOTCONN", "ENOBUFS"], Response::Closes, "the peer reset the connection before it was accepted"),
    row("clone3", &["EAGAIN", "ENOMEM"], Response::Refuses, "no thread can be started for the connection").only(&["blocking-echo"]),
    row("clone3", &["EAGAIN"], Response::Refuses, "glibc cannot start the helper thread that the connection needs").only(AIO),
    row("clone", &["EAGAIN", "ENOMEM", "ENOSYS"], Response::Refuses, "no process can be started for the connection").only(&["blocking-echo-fork"]),
    row("epoll_ctl", &["ENOSPC", "ENOMEM", "EPERM"], Response::Refuses, "the user's limit on watched file descriptors (fs.epoll.max_user_watches), or no memory, when a new connection is added (`EPOLL_CTL_ADD`)").except(&["reactor-chat"]),
    row("fcntl", &["ENOMEM"], Response::Refuses, "the kernel has no memory for the registration that `F_SETFL` with O_ASYNC makes").only(SIGIO),
    row("epoll_pwait", &["EINTR"], Response::Retries, "a signal handler ran; the crate `polling`, which makes the call, repeats it").only(&["reactor-chat"]),
    row("epoll_pwait", &["EBADF", "EINVAL", "EFAULT"], Response::Ends, "a programming error: the server cannot wait any more").only(&["reactor-chat"]),
    row("rt_sigtimedwait", &["EINTR", "EAGAIN"], Response::Retries, "a signal handler ran, or the time is over").first(6),
    row("clock_nanosleep", &["EINTR"], Response::Retries, "std sleeps for the rest of the time"),
    row("epoll_wait", &["EINTR"], Response::Retries, "a signal handler ran, or the process was stopped and continued"),
    row("epoll_wait", &["EBADF", "EINVAL", "EFAULT"], Response::Ends, "a programming error: the server cannot wait any more"),
    row("poll", &["EINTR"], Response::Retries, "a signal handler ran, or the process was stopped and continued").only(POLLS),
    row("poll", &["ENOMEM"], Response::Retries, "the kernel has no memory for its copy of the list; until poll succeeds, the server tries all sockets every 100 ms").only(&["poll-echo"]).first(6),
    row("poll", &["EINVAL"], Response::Retries, "the list is longer than RLIMIT_NOFILE, because the limit was lowered while the server ran (prlimit); until poll succeeds, the server tries all sockets every 100 ms").only(&["poll-echo"]).first(6),
    row("pselect6", &["EINTR"], Response::Retries, "a signal handler ran, or the process was stopped and continued"),
    row("pselect6", &["ENOMEM"], Response::Retries, "the kernel has no memory for its copy of the sets; until select succeeds, the server tries all sockets every 100 ms").first(6),
    row("pselect6", &["EBADF", "EINVAL"], Response::Ends, "a programming error: the server cannot wait any more"),
    row("recvfrom", OF_THE_PEER, Response::Closes, "the connection is lost, and its unread bytes with it").on_stop_socket().except(AIO),
    row("recvfrom", &["EINTR"], Response::Retries, "only a call that sleeps can be interrupted").only(BLOCKING),
    row("sendto", OF_THE_PEER, Response::Closes, "the connection is lost").on_stop_socket().except(AIO),
    row("sendto", &["EPIPE"], Response::Closes, "the peer has reset the connection; Rust programs ignore SIGPIPE").on_stop_socket().except(AIO),
    row("writev", OF_THE_PEER, Response::Closes, "the connection is lost").only(VECTORED),
    row("writev", &["EPIPE"], Response::Closes, "the peer has reset the connection; Rust programs ignore SIGPIPE").only(VECTORED),
    row("sendto", &["EINTR"], Response::Retries, "only a call that sleeps can be interrupted").only(BLOCKING),
    row("read", &["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM"], Response::Closes, "a helper thread of glibc reads; the connection is lost (in aio-echo the same call reads the server's own signal descriptor, so it is not injected there)").only(&["proactor-chat"]),
    row("write", &["ECONNRESET", "EPIPE", "ETIMEDOUT", "ENOMEM"], Response::Closes, "a helper thread of glibc writes; the connection is lost").only(AIO),
    row("write", &["EIO", "EPIPE", "ENOSPC", "EAGAIN", "EINTR"], Response::Ignores, "the call writes to the log, on stderr; that line is lost").except(&["aio-echo", "proactor-chat", "proactor-chat-simulated", "proactor-chat-uring", "reactor-chat"]),
    row("shutdown", &["ENOTCONN"], Response::Ignores, "the peer has reset the connection in the meantime"),
    row("io_uring_enter", &["EINTR", "EBUSY", "EAGAIN"], Response::Retries, "a signal handler ran, the completion queue is full, or the kernel lacks memory for a request").first(4),
];

/// Calls that a server makes and that no row names, with the reason. A call that is in neither list
/// fails the sweep.
pub const NOT_INJECTED: &[(&str, &str)] = &[
    (
        "close",
        "Linux releases the file descriptor even if `close` returns an error. An injected error would leave it open, which the kernel never does",
    ),
    (
        "brk mmap mprotect munmap mremap madvise",
        "the allocator and the C library make them. If one fails, Rust's allocator aborts the process, or the library hides the failure. The contract's `limits` cases run servers with a limited address space instead",
    ),
    (
        "execve access openat newfstatat read prlimit64 arch_prctl set_tid_address set_robust_list rseq sched_getaffinity sched_yield getrandom gettid getpid getppid uname",
        "the loader and the start of a thread, before any code of the server; reads of a self-pipe cannot fail",
    ),
    (
        "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack",
        "they fail only for invalid arguments",
    ),
    (
        "tgkill kill",
        "the server sends a standard signal to itself. So the target exists (no ESRCH), the sender is permitted (no EPERM), and the signal does not queue (EAGAIN occurs only with real-time signals)",
    ),
    ("exit exit_group", "they do not return"),
    (
        "fcntl ioctl getsockname getsockopt setsockopt",
        "after the start they are calls on an open socket with constant arguments, and fail only for invalid ones. There are two exceptions. `F_SETFL` with O_ASYNC is in the table. proactor-chat duplicates a file descriptor (`F_DUPFD_CLOEXEC`) before it accepts a client, which needs two: on EMFILE it pauses accepting, as after accept. If only the second duplicate fails, it refuses the client",
    ),
    (
        "rt_sigsuspend pause restart_syscall",
        "they always return EINTR, or continue a wait that was interrupted",
    ),
    (
        "prctl getuid sched_getparam sched_getscheduler timerfd_settime",
        "they fail only for invalid arguments",
    ),
    (
        "futex",
        "std and glibc wait in loops that check the value again. strace cannot tell a wait from a wake-up, and the kernel never fails to perform a wake-up (see below)",
    ),
    (
        "recvfrom sendto",
        "in servers on POSIX AIO, which read and write clients with `read` and `write`, these are calls on the server's own socket pair",
    ),
    (
        "write",
        "in the chats, where it wakes another thread through an eventfd or a pipe that stays open",
    ),
    (
        "rt_sigqueueinfo",
        "glibc sends the completion signal with it. It fails with EAGAIN if the user's queue of signals is full; the contract's `limits` cases run servers with a short queue",
    ),
    (
        "poll",
        "of stderr, before a line is logged: it fails for one descriptor only if the descriptor is invalid (in servers that wait in poll, see the table)",
    ),
    (
        "epoll_ctl",
        "in reactor-chat: the crate `polling` makes this call for each change of interest and for its timer, and strace cannot tell the ADD of a connection, which can fail, from a MOD, which cannot (see below). The server refuses a connection whose ADD fails",
    ),
    (
        "pread64 pwrite64",
        "glibc's AIO tries them before `read` and `write`; on a socket they always fail with ESPIPE",
    ),
];

/// Faults that are not injected although a man page lists the error, with the reason.
pub const CANNOT_HAPPEN: &[(&str, &str)] = &[
    (
        "EAGAIN from `accept4` or `recvfrom` while a connection or data waits",
        "edge-triggered and signal-driven servers rely on the kernel's promise that EAGAIN means empty",
    ),
    (
        "EAGAIN from `sendto` while the send buffer has room",
        "the same promise for writing: without it no edge follows",
    ),
    ("EINTR from a call on a non-blocking socket", "a signal interrupts only a call that sleeps"),
    (
        "EPIPE from the write of a signal handler into the process's own socket pair",
        "both ends are open for as long as the process lives",
    ),
    (
        "a futex wake-up that is not performed",
        "the kernel has no such failure: FUTEX_WAKE fails only for invalid arguments",
    ),
    (
        "ENOMEM from `poll` in aio-echo and proactor-chat",
        "they wait for two or three file descriptors, and the kernel keeps the entries of so short a list on its stack",
    ),
    (
        "ENOSPC or ENOMEM from `epoll_ctl(MOD)`",
        "the entry exists, and changing it allocates nothing",
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
    ("io_uring_setup", &["EPERM", "ENOSYS", "ENOMEM"]),
    ("io_uring_register", &["EINVAL", "ENOMEM"]),
];
