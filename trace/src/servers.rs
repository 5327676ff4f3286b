//! What there is to trace.

/// A server, and what has to be known of its code to trace it and to name what it does.
#[derive(Debug)]
pub struct Server {
    pub package: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// What the figure shows, in one sentence.
    pub idea: &'static str,
    /// What its threads or processes are that have no name of their own; with an `of` behind it
    /// where each works for one client.
    pub unnamed: &'static str,
    /// The kernel copies by itself: which bytes, and when it was told, only the server's own log
    /// says (`copy: recv(8) = 6`), which is in the trace as what it writes to stderr.
    pub kernel_copies: bool,
    /// Its place in the comparison, by the textbook's name of the model.
    pub model: Option<&'static str>,
    /// The steps of the pattern, as the header of the server's file numbers them.
    pub steps: &'static [Step],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Echo,
    Datagram,
    Chat,
}

/// A call that is a step of the pattern.
#[derive(Debug)]
pub struct Step {
    pub number: &'static str,
    /// How the name of the thread's role begins.
    pub thread: &'static str,
    pub call: &'static str,
    /// What stands in its arguments, or in what the figure says came of it.
    pub with: &'static str,
    /// What the wait before it in its thread was answered, or the read or write that led to it, in
    /// whichever thread, where that makes a difference.
    pub after: &'static str,
}

const fn step(
    number: &'static str,
    thread: &'static str,
    call: &'static str,
    with: &'static str,
) -> Step {
    Step { number, thread, call, with, after: "" }
}

const ECHO: Server = Server {
    package: "",
    name: "",
    kind: Kind::Echo,
    idea: "",
    unnamed: "thread of",
    kernel_copies: false,
    model: None,
    steps: &[],
};

const CHAT: Server = Server { kind: Kind::Chat, ..ECHO };

/// In the order of the comparison.
pub const SERVERS: &[Server] = &[
    Server {
        package: "blocking-echo",
        name: "blocking-echo-iterative",
        idea: "One thread, one client at a time: B is not even accepted before A has left.",
        ..ECHO
    },
    Server {
        package: "blocking-echo",
        name: "blocking-echo",
        idea: "A thread for each client: it waits in its read, and the same call copies.",
        model: Some("blocking"),
        ..ECHO
    },
    Server {
        package: "blocking-echo",
        name: "blocking-echo-fork",
        idea: "A process for each client: it waits in its read, and the same call copies.",
        unnamed: "child of",
        ..ECHO
    },
    Server {
        package: "blocking-echo",
        name: "blocking-echo-pool",
        idea: "A fixed number of threads, each of them with one client at a time.",
        ..ECHO
    },
    Server {
        package: "nonblocking-echo",
        name: "nonblocking-echo",
        idea: "Nobody waits in a call: the thread asks every socket over and over (EAGAIN: nothing yet).",
        model: Some("non-blocking"),
        ..ECHO
    },
    Server {
        package: "select-echo",
        name: "select-echo",
        idea: "One thread waits for all clients in select; its reads find the bytes there.",
        model: Some("multiplexing: select"),
        ..ECHO
    },
    Server {
        package: "poll-echo",
        name: "poll-echo",
        idea: "One thread waits for all clients in poll; its reads find the bytes there.",
        model: Some("multiplexing: poll"),
        ..ECHO
    },
    Server {
        package: "epoll-echo",
        name: "epoll-echo",
        idea: "One thread waits for all clients in epoll_wait; its reads find the bytes there.",
        model: Some("multiplexing: epoll"),
        ..ECHO
    },
    Server {
        package: "epoll-echo",
        name: "epoll-echo-edge",
        idea: "epoll_wait tells once that something came: the thread reads on until EAGAIN.",
        ..ECHO
    },
    Server {
        package: "sigio-echo",
        name: "sigio-echo",
        idea: "SIGIO ends the thread's sleep when something came; it tries every socket.",
        model: Some("signal-driven"),
        ..ECHO
    },
    Server {
        package: "sigio-echo",
        name: "sigio-echo-realtime",
        idea: "Signals queue, and each names the socket on which something came.",
        ..ECHO
    },
    Server {
        package: "sigio-echo",
        name: "sigio-echo-udp",
        kind: Kind::Datagram,
        idea: "SIGIO tells that a datagram came; the thread receives until there is none.",
        ..ECHO
    },
    Server {
        package: "aio-echo",
        name: "aio-echo",
        idea: "The main thread hands its reads over; helper threads of the C library wait and copy.",
        unnamed: "helper",
        model: Some("asynchronous: POSIX AIO"),
        ..ECHO
    },
    Server {
        package: "uring-echo",
        name: "uring-echo",
        idea: "The kernel waits and copies; the thread hands over reads and takes back what is done.",
        kernel_copies: true,
        model: Some("asynchronous: io_uring"),
        ..ECHO
    },
    Server {
        package: "reactor-chat",
        name: "reactor-chat",
        idea: "The main thread only waits, and queues who is ready; workers read, handle and write.",
        steps: &[
            step("4", "worker", "epoll_ctl", "EPOLLOUT"),
            step("1", "", "epoll_ctl", "EPOLLIN"),
            step("5", "main", "epoll_pwait", "EPOLLOUT"),
            step("2", "main", "epoll_pwait", ""),
            Step { after: "EPOLLOUT", ..step("6", "main", "futex", "wakes 1") },
            step("3", "main", "futex", "wakes 1"),
            step("4", "worker", "recvfrom", ""),
            step("7", "worker", "sendto", ""),
        ],
        ..CHAT
    },
    Server {
        package: "proactor-chat",
        name: "proactor-chat",
        idea: "Helper threads of the C library copy, signals tell when that is done, workers handle.",
        unnamed: "helper",
        steps: &[
            step("1", "helper", "read", ""),
            step("2", "main", "poll", ""),
            Step { after: "read", ..step("3", "helper", "rt_sigqueueinfo", "") },
            step("4", "", "sendto", "MSG_DONTWAIT"), // the handler's
            Step { after: "read", ..step("5", "worker", "recvfrom", "") },
            step("5", "helper", "write", ""),
            Step { after: "write", ..step("6", "helper", "rt_sigqueueinfo", "") },
            Step { after: "write", ..step("7", "worker", "recvfrom", "") },
        ],
        ..CHAT
    },
    Server {
        package: "proactor-chat",
        name: "proactor-chat-simulated",
        idea: "The main thread waits and copies; workers get what has been read, and only handle it.",
        steps: &[
            step("1", "main", "epoll_ctl", "EPOLL_CTL_ADD"),
            step("5", "main", "epoll_wait", "eventfd"),
            step("2", "main", "epoll_wait", ""),
            step("3", "main", "recvfrom", ""),
            step("3", "main", "futex", "wakes 1"),
            step("4", "worker", "write", "eventfd"),
            step("6", "main", "sendto", ""),
        ],
        ..CHAT
    },
    Server {
        package: "proactor-chat",
        name: "proactor-chat-uring",
        idea: "The kernel waits and copies; workers get what has been read, and only handle it.",
        kernel_copies: true,
        steps: &[
            step("5", "main", "io_uring_enter", "eventfd"),
            step("2", "main", "io_uring_enter", ""),
            step("3", "main", "recv", ""),
            step("3", "main", "futex", "wakes 1"),
            step("4", "worker", "write", "eventfd"),
            step("6", "main", "send", ""),
        ],
        ..CHAT
    },
];

/// The server with this name.
pub fn find(name: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| server.name == name)
}
