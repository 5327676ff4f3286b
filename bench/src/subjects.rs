//! Who is measured: the servers of this project, the peers and the floors.

/// What a subject does for its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Bytes come back.
    Echo,
    /// Lines go to everybody else.
    Chat,
}

/// A server that is measured.
#[derive(Debug)]
pub struct Subject {
    /// The package that builds it; the peers and floors are in the lab's own.
    pub package: &'static str,
    /// The name of its binary, by which it is known in tables and plots.
    pub name: &'static str,
    pub service: Service,
    /// How many connections it serves at once, where that is its nature.
    pub holds: usize,
    /// It never waits: a core is busy whatever the load, and there is no message without others.
    pub spins: bool,
    /// The kernel or a container may refuse what it is built on.
    pub may_be_refused: bool,
    /// The barest loop of the same system calls.
    pub floor: Option<&'static str>,
    /// Its colour and marker in the plots; a floor has those of its model.
    pub look: usize,
}

const ECHO: Subject = Subject {
    package: "bench",
    name: "",
    service: Service::Echo,
    holds: usize::MAX,
    spins: false,
    may_be_refused: false,
    floor: None,
    look: 0,
};
const CHAT: Subject = Subject { service: Service::Chat, ..ECHO };

/// What `select(2)` leaves after the descriptors that every server has open.
const SELECT_HOLDS: usize = 1000;

/// What the others are compared with.
pub const REFERENCE: &str = "epoll-echo";
/// What its pause is varied for.
pub const PAUSING: &str = "nonblocking-echo";

/// In the order of the tables: from model to model, then the peers, then the floors.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        package: "blocking-echo",
        name: "blocking-echo",
        floor: Some("baseline-blocking"),
        look: 0,
        ..ECHO
    },
    Subject {
        package: "blocking-echo",
        name: "blocking-echo-iterative",
        holds: 1,
        look: 1,
        ..ECHO
    },
    Subject {
        package: "blocking-echo",
        name: "blocking-echo-fork",
        // It holds more, but five thousand processes are more than some machines bear.
        holds: 1000,
        look: 2,
        ..ECHO
    },
    Subject { package: "blocking-echo", name: "blocking-echo-pool", holds: 64, look: 3, ..ECHO },
    Subject { package: "nonblocking-echo", name: "nonblocking-echo", spins: true, look: 4, ..ECHO },
    Subject {
        package: "select-echo",
        name: "select-echo",
        holds: SELECT_HOLDS,
        floor: Some("baseline-select"),
        look: 5,
        ..ECHO
    },
    Subject {
        package: "poll-echo",
        name: "poll-echo",
        floor: Some("baseline-poll"),
        look: 6,
        ..ECHO
    },
    Subject {
        package: "epoll-echo",
        name: "epoll-echo",
        floor: Some("baseline-epoll"),
        look: 7,
        ..ECHO
    },
    Subject { package: "epoll-echo", name: "epoll-echo-edge", look: 8, ..ECHO },
    Subject { package: "sigio-echo", name: "sigio-echo", look: 9, ..ECHO },
    Subject { package: "sigio-echo", name: "sigio-echo-realtime", look: 10, ..ECHO },
    // Each connection has one of glibc's helper threads.
    Subject { package: "aio-echo", name: "aio-echo", holds: 1024, look: 11, ..ECHO },
    Subject { package: "uring-echo", name: "uring-echo", may_be_refused: true, look: 12, ..ECHO },
    Subject { name: "reference-mio-echo", look: 3, ..ECHO },
    Subject { name: "reference-tokio-echo", look: 9, ..ECHO },
    Subject { name: "baseline-blocking", look: 0, ..ECHO },
    Subject { name: "baseline-select", holds: SELECT_HOLDS, look: 5, ..ECHO },
    Subject { name: "baseline-poll", look: 6, ..ECHO },
    Subject { name: "baseline-epoll", look: 7, ..ECHO },
    Subject { package: "reactor-chat", name: "reactor-chat", look: 7, ..CHAT },
    Subject { package: "proactor-chat", name: "proactor-chat", holds: 1024, look: 11, ..CHAT },
    Subject { package: "proactor-chat", name: "proactor-chat-simulated", look: 8, ..CHAT },
    Subject {
        package: "proactor-chat",
        name: "proactor-chat-uring",
        may_be_refused: true,
        look: 12,
        ..CHAT
    },
    Subject { name: "reference-tokio-chat", look: 9, ..CHAT },
];

/// The subject with this name.
pub fn find(name: &str) -> Option<&'static Subject> {
    SUBJECTS.iter().find(|subject| subject.name == name)
}

impl Subject {
    /// Whether it is one of this project's servers.
    pub fn is_ours(&self) -> bool {
        self.package != "bench"
    }
}
