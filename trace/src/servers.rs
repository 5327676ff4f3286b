//! What the figures need to know about each server, besides its entry in the catalog.

use contract::catalog::{self, Entry};

/// A server of the catalog, with its notes.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub entry: &'static Entry,
    pub notes: &'static Notes,
}

/// What the trace itself does not show about a server.
#[derive(Debug)]
pub struct Notes {
    /// The name of the server.
    pub name: &'static str,
    /// What the figure shows, in one sentence.
    pub summary: &'static str,
    /// What to call threads and processes that have not named themselves. If it ends in `of`, each
    /// works for one client, and the name of that client follows.
    pub unnamed_threads: &'static str,
    /// The kernel copies without a system call of its own. Which bytes it copied is then visible
    /// in the server's log only (`copy: recv(8) = 6`), which the trace contains as writes to
    /// stderr.
    pub kernel_copies: bool,
    /// Its row in the comparison: the textbook's name of the model.
    pub model: Option<&'static str>,
    /// The steps of the pattern, as the header of the server's file numbers them.
    pub steps: &'static [Step],
}

/// A call that is a step of the pattern.
#[derive(Debug)]
pub struct Step {
    pub number: &'static str,
    /// How the role of the thread begins.
    pub thread: &'static str,
    pub call: &'static str,
    /// Text that must be among the arguments of the call or in its outcome.
    pub with: &'static str,
    /// Text that must be in the outcome of the thread's last wait, or the name of the read or
    /// write, in any thread, that led to the call.
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

const DEFAULT: Notes = Notes {
    name: "",
    summary: "",
    unnamed_threads: "thread",
    kernel_copies: false,
    model: None,
    steps: &[],
};

/// The notes of a server of the catalog that has none yet.
static NO_NOTES: Notes = DEFAULT;

/// The notes of all servers, in the order of the comparison.
static NOTES: &[Notes] = &[
    Notes {
        name: "blocking-echo-iterative",
        summary: "One thread serves one client at a time: B is accepted only after A disconnects.",
        ..DEFAULT
    },
    Notes {
        name: "blocking-echo",
        summary: "A thread per client. It waits in read, and the same call copies.",
        unnamed_threads: "thread of",
        model: Some("blocking"),
        ..DEFAULT
    },
    Notes {
        name: "blocking-echo-fork",
        summary: "A process per client. It waits in read, and the same call copies.",
        unnamed_threads: "child of",
        ..DEFAULT
    },
    Notes {
        name: "blocking-echo-pool",
        summary: "A fixed number of threads, each of which serves one client at a time.",
        unnamed_threads: "thread of",
        ..DEFAULT
    },
    Notes {
        name: "blocking-echo-prefork",
        summary: "A fixed number of processes, each of which serves one client at a time.",
        unnamed_threads: "worker of",
        ..DEFAULT
    },
    Notes {
        name: "nonblocking-echo",
        summary: "The thread waits in no call: it tries to read every socket, again and again (EAGAIN: nothing to read yet).",
        model: Some("non-blocking"),
        ..DEFAULT
    },
    Notes {
        name: "select-echo",
        summary: "One thread waits for all clients in select. Its reads find the data already there.",
        model: Some("multiplexing: select"),
        ..DEFAULT
    },
    Notes {
        name: "poll-echo",
        summary: "One thread waits for all clients in poll. Its reads find the data already there.",
        model: Some("multiplexing: poll"),
        ..DEFAULT
    },
    Notes {
        name: "epoll-echo",
        summary: "One thread waits for all clients in epoll_wait. Its reads find the data already there.",
        model: Some("multiplexing: epoll"),
        ..DEFAULT
    },
    Notes {
        name: "epoll-echo-edge",
        summary: "epoll_wait reports each arrival once, so the thread reads until EAGAIN.",
        ..DEFAULT
    },
    Notes {
        name: "epoll-echo-reuseport",
        summary: "Each thread has a loop and a listener. The kernel distributes the clients by a hash.",
        ..DEFAULT
    },
    Notes {
        name: "epoll-echo-exclusive",
        summary: "Each thread has a loop. All watch one listener, and the kernel wakes the first that sleeps.",
        ..DEFAULT
    },
    Notes {
        name: "epoll-echo-handoff",
        summary: "The acceptor puts each client into the mailbox of the loop with the fewest, and wakes that loop.",
        ..DEFAULT
    },
    Notes {
        name: "sigio-echo",
        summary: "SIGIO ends the thread's sleep when data has arrived. The thread then tries every socket.",
        model: Some("signal-driven"),
        ..DEFAULT
    },
    Notes {
        name: "sigio-echo-realtime",
        summary: "The signals are queued, and each names the socket that has become ready.",
        ..DEFAULT
    },
    Notes {
        name: "sigio-echo-udp",
        summary: "SIGIO reports that a datagram has arrived. The thread receives until EAGAIN.",
        ..DEFAULT
    },
    Notes {
        name: "aio-echo",
        summary: "The main thread submits reads. Helper threads of the C library wait and copy.",
        unnamed_threads: "helper",
        model: Some("asynchronous: POSIX AIO"),
        ..DEFAULT
    },
    Notes {
        name: "uring-echo",
        summary: "The thread submits reads and takes completions. The kernel waits and copies.",
        kernel_copies: true,
        model: Some("asynchronous: io_uring"),
        ..DEFAULT
    },
    Notes {
        name: "uring-echo-buffers",
        summary: "The reads name no buffer: the kernel takes a free one when data arrives.",
        kernel_copies: true,
        ..DEFAULT
    },
    Notes {
        name: "uring-echo-threads",
        summary: "Each thread has a ring. The kernel distributes the clients.",
        unnamed_threads: "ring",
        kernel_copies: true,
        ..DEFAULT
    },
    Notes {
        name: "async-echo-states",
        summary: "The thread of epoll-echo. Each read and write is a poll of the client's future.",
        ..DEFAULT
    },
    Notes {
        name: "async-echo",
        summary: "Tasks await their sockets. The one thread that runs them waits in epoll_wait.",
        ..DEFAULT
    },
    Notes {
        name: "async-echo-uring",
        summary: "Tasks await operations. The one thread that runs them waits. The kernel copies.",
        kernel_copies: true,
        ..DEFAULT
    },
    Notes {
        name: "reactor-chat-single",
        summary: "One thread waits for all clients, reads, processes and writes.",
        steps: &[
            step("1", "", "epoll_ctl", "EPOLL_CTL_ADD"),
            step("2", "", "epoll_wait", ""),
            step("4", "", "recvfrom", ""),
            step("5", "", "sendto", ""),
        ],
        ..DEFAULT
    },
    Notes {
        name: "reactor-chat",
        summary: "The main thread only waits, and queues the clients that are ready. Workers read, process and write.",
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
        ..DEFAULT
    },
    Notes {
        name: "reactor-chat-multi",
        summary: "The main thread accepts. Each loop waits, reads, processes and writes for its own clients.",
        steps: &[
            step("1", "main", "accept4", ""),
            step("1", "loop", "epoll_ctl", "EPOLL_CTL_ADD"),
            step("2", "loop", "epoll_wait", ""),
            step("3", "loop", "recvfrom", ""),
            step("4", "loop", "write", "eventfd"),
            step("5", "loop", "sendto", ""),
        ],
        ..DEFAULT
    },
    Notes {
        name: "proactor-chat",
        summary: "Helper threads of the C library copy, signals report the completions, and workers process them.",
        unnamed_threads: "helper",
        steps: &[
            step("1", "helper", "read", ""),
            step("2", "main", "poll", ""),
            Step { after: "read", ..step("3", "helper", "rt_sigqueueinfo", "") },
            step("4", "", "sendto", "MSG_DONTWAIT"), // in the signal handler
            Step { after: "read", ..step("5", "worker", "recvfrom", "") },
            step("5", "helper", "write", ""),
            Step { after: "write", ..step("6", "helper", "rt_sigqueueinfo", "") },
            Step { after: "write", ..step("7", "worker", "recvfrom", "") },
        ],
        ..DEFAULT
    },
    Notes {
        name: "proactor-chat-simulated",
        summary: "The main thread waits and copies. Workers only process what it has read.",
        steps: &[
            step("1", "main", "epoll_ctl", "EPOLL_CTL_ADD"),
            step("5", "main", "epoll_wait", "eventfd"),
            step("2", "main", "epoll_wait", ""),
            step("3", "main", "recvfrom", ""),
            step("3", "main", "futex", "wakes 1"),
            step("4", "worker", "write", "eventfd"),
            step("6", "main", "sendto", ""),
        ],
        ..DEFAULT
    },
    Notes {
        name: "proactor-chat-uring",
        summary: "The kernel waits and copies. Workers only process what has been read.",
        kernel_copies: true,
        steps: &[
            step("5", "main", "io_uring_enter", "eventfd"),
            step("2", "main", "io_uring_enter", ""),
            step("3", "main", "recv", ""),
            step("3", "main", "futex", "wakes 1"),
            step("4", "worker", "write", "eventfd"),
            step("6", "main", "writev", ""),
        ],
        ..DEFAULT
    },
];

impl Server {
    /// The server of this entry of the catalog.
    fn new(entry: &'static Entry) -> Self {
        let notes = NOTES.iter().find(|notes| notes.name == entry.name).unwrap_or(&NO_NOTES);
        Self { entry, notes }
    }

    pub fn name(&self) -> &'static str {
        self.entry.name
    }
}

/// Returns all servers: first those with notes, in their order.
pub fn all() -> Vec<Server> {
    let mut servers: Vec<Server> = catalog::SERVERS.iter().map(Server::new).collect();
    let place = |server: &Server| NOTES.iter().position(|notes| notes.name == server.name());
    servers.sort_by_key(|server| place(server).unwrap_or(NOTES.len()));
    servers
}

/// Returns the server with this name.
pub fn find(name: &str) -> Option<Server> {
    catalog::find(name).map(Server::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_of_the_catalog_has_notes() {
        let missing: Vec<&str> = (catalog::SERVERS.iter())
            .map(|entry| entry.name)
            .filter(|name| !NOTES.iter().any(|notes| notes.name == *name))
            .collect();
        assert!(missing.is_empty(), "add notes to trace/src/servers.rs for {missing:?}");
        let unknown: Vec<&str> = (NOTES.iter().map(|notes| notes.name))
            .filter(|name| catalog::find(name).is_none())
            .collect();
        assert!(unknown.is_empty(), "the catalog has no server {unknown:?}");
    }
}
