//! The servers that are measured: those of the catalog, the references and the baselines.

use std::sync::LazyLock;

use contract::catalog::{self, Entry, Kind};
use contract::server::no_io_uring;
use contract::target::AtRest;

/// A server that is measured.
#[derive(Debug)]
pub struct Subject {
    /// The package that builds it.
    pub package: &'static str,
    /// The name of its binary, and its name in tables and plots.
    pub name: &'static str,
    pub service: Service,
    pub origin: Origin,
    /// How many connections it serves at the same time, if its model limits them.
    pub max_connections: usize,
    /// It polls: it uses a core even if no client does anything.
    pub polls: bool,
    /// What it needs and this machine does not have, if anything.
    pub unavailable: fn() -> Option<&'static str>,
    /// The minimal loop of the same system calls.
    pub baseline: Option<&'static str>,
    /// Which threads or processes serve the connections.
    pub workers: Workers,
    /// The index of its color and marker in the plots. A baseline has those of its model.
    pub look: usize,
}

/// Which threads or processes serve the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Always the same ones.
    Fixed,
    /// As many as the last argument says. These arguments come before it, after the address.
    Argument(&'static [&'static str]),
    /// A new thread or process for each connection.
    PerConnection,
}

/// What a subject does for its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The bytes that a client sends come back.
    Echo,
    /// A line goes to all other clients.
    Chat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A server of the catalog.
    Catalog,
    /// A server on mio or tokio, or another way to use `io_uring`.
    Reference,
    /// A loop that makes as few system calls as possible.
    Baseline,
}

/// The server with which the others are compared.
pub const REFERENCE: &str = "epoll-echo";
/// The server whose pause is varied.
pub const POLLING: &str = "nonblocking-echo";
/// The package of the references and baselines.
const OWN_PACKAGE: &str = "bench";

/// The servers that are measured with short connections.
const CHURNED: &[&str] = &[
    "blocking-echo-iterative",
    "blocking-echo",
    "blocking-echo-fork",
    "blocking-echo-pool",
    "blocking-echo-prefork",
    "epoll-echo",
    "epoll-echo-reuseport",
    "epoll-echo-exclusive",
    "epoll-echo-handoff",
    "uring-echo",
    "uring-echo-buffers",
];
/// The servers with several loops.
const LOOPS: &[&str] =
    &["epoll-echo-reuseport", "epoll-echo-exclusive", "epoll-echo-handoff", "uring-echo-threads"];
/// The servers whose last argument is the number of their workers, and the arguments before it.
const WITH_ARGUMENT: &[(&str, &[&str])] = &[
    ("blocking-echo-pool", &[]),
    ("blocking-echo-prefork", &[]),
    ("epoll-echo-reuseport", &[]),
    ("epoll-echo-exclusive", &[]),
    ("epoll-echo-handoff", &[]),
    // The seconds after which an idle client is disconnected.
    ("reactor-chat-multi", &["300"]),
];
/// The servers with a thread or process for each connection.
const PER_CONNECTION: &[&str] = &["blocking-echo", "blocking-echo-fork"];

fn workers(name: &str) -> Workers {
    if let Some((_, before)) = WITH_ARGUMENT.iter().find(|(server, _)| *server == name) {
        Workers::Argument(before)
    } else if PER_CONNECTION.contains(&name) {
        Workers::PerConnection
    } else {
        Workers::Fixed
    }
}

/// What the benchmark needs to know about a server, besides its entry in the catalog.
struct Notes {
    name: &'static str,
    look: usize,
    baseline: Option<&'static str>,
    /// A limit on the connections that comes from the machine, not from the model.
    max_connections: Option<usize>,
}

const fn notes(name: &'static str, look: usize) -> Notes {
    Notes { name, look, baseline: None, max_connections: None }
}

impl Notes {
    const fn baseline(self, name: &'static str) -> Self {
        Self { baseline: Some(name), ..self }
    }

    const fn max_connections(self, count: usize) -> Self {
        Self { max_connections: Some(count), ..self }
    }
}

const NOTES: &[Notes] = &[
    notes("blocking-echo", 0).baseline("baseline-blocking"),
    notes("blocking-echo-iterative", 1),
    // Some machines do not support five thousand processes.
    notes("blocking-echo-fork", 2).max_connections(1000),
    notes("blocking-echo-pool", 3),
    notes("blocking-echo-prefork", 1),
    notes("nonblocking-echo", 4),
    notes("select-echo", 5).baseline("baseline-select"),
    notes("poll-echo", 6).baseline("baseline-poll"),
    notes("epoll-echo", 7).baseline("baseline-epoll"),
    notes("epoll-echo-edge", 8),
    notes("epoll-echo-reuseport", 5),
    notes("epoll-echo-exclusive", 6),
    notes("epoll-echo-handoff", 9),
    notes("sigio-echo", 9),
    notes("sigio-echo-realtime", 10),
    notes("aio-echo", 11),
    notes("uring-echo", 12),
    notes("uring-echo-buffers", 2),
    notes("uring-echo-threads", 4),
    notes("async-echo-states", 3),
    notes("async-echo", 1),
    notes("async-echo-uring", 0),
    notes("reactor-chat-single", 0),
    notes("reactor-chat", 7),
    notes("reactor-chat-multi", 4),
    notes("proactor-chat", 11),
    notes("proactor-chat-simulated", 8),
    notes("proactor-chat-uring", 12),
];

/// File descriptors below `FD_SETSIZE` that a server on select needs for itself, generously.
const OWN_DESCRIPTORS: usize = 24;

static SUBJECTS: LazyLock<Vec<Subject>> = LazyLock::new(|| {
    let (echo, chat): (Vec<Subject>, Vec<Subject>) = (catalog::SERVERS.iter())
        .filter_map(from_catalog)
        .partition(|subject| subject.service == Service::Echo);
    let mut subjects = echo;
    subjects.extend([
        own("reference-mio-echo", Origin::Reference, 3),
        own("reference-tokio-echo", Origin::Reference, 9),
        Subject {
            unavailable: no_io_uring,
            ..own("reference-uring-multishot", Origin::Reference, 10)
        },
        own("baseline-blocking", Origin::Baseline, 0),
        own("baseline-select", Origin::Baseline, 5),
        own("baseline-poll", Origin::Baseline, 6),
        own("baseline-epoll", Origin::Baseline, 7),
    ]);
    subjects.extend(chat);
    let chat = own("reference-tokio-chat", Origin::Reference, 9);
    subjects.push(Subject { service: Service::Chat, ..chat });
    // The baseline of select has the limit of select.
    let limit = find_in(&subjects, "select-echo").map(|select| select.max_connections);
    let baseline = subjects.iter_mut().find(|subject| subject.name == "baseline-select");
    if let (Some(baseline), Some(limit)) = (baseline, limit) {
        baseline.max_connections = limit;
    }
    subjects
});

/// Returns all subjects in the order of the tables: the echo servers from model to model, their
/// references and baselines, then the chat servers.
pub fn all() -> &'static [Subject] {
    &SUBJECTS
}

/// Returns the subject with this name.
pub fn find(name: &str) -> Option<&'static Subject> {
    find_in(all(), name)
}

fn find_in<'a>(subjects: &'a [Subject], name: &str) -> Option<&'a Subject> {
    subjects.iter().find(|subject| subject.name == name)
}

/// Returns `None` for servers on UDP: the clients count bytes of a stream.
fn from_catalog(entry: &'static Entry) -> Option<Subject> {
    let service = match entry.kind {
        Kind::Echo => Service::Echo,
        Kind::Chat => Service::Chat,
        Kind::Datagram => return None,
    };
    let notes = NOTES.iter().find(|notes| notes.name == entry.name);
    let properties = entry.properties;
    let select_limit = properties.fd_setsize.map(|size| size as usize - OWN_DESCRIPTORS);
    let limits =
        [properties.max_clients, select_limit, notes.and_then(|notes| notes.max_connections)];
    let max_connections = limits.into_iter().flatten().fold(properties.max_concurrent, usize::min);
    Some(Subject {
        package: entry.package,
        name: entry.name,
        service,
        origin: Origin::Catalog,
        max_connections,
        polls: properties.at_rest == AtRest::Polls,
        unavailable: entry.unavailable,
        baseline: notes.and_then(|notes| notes.baseline),
        workers: workers(entry.name),
        look: notes.map_or(0, |notes| notes.look),
    })
}

fn own(name: &'static str, origin: Origin, look: usize) -> Subject {
    Subject {
        package: OWN_PACKAGE,
        name,
        service: Service::Echo,
        origin,
        max_connections: usize::MAX,
        polls: false,
        unavailable: || None,
        baseline: None,
        workers: Workers::Fixed,
        look,
    }
}

impl Subject {
    /// Whether it is a server of the catalog.
    pub fn is_from_catalog(&self) -> bool {
        self.origin == Origin::Catalog
    }

    /// Whether it is measured with short connections.
    pub fn is_churned(&self) -> bool {
        CHURNED.contains(&self.name)
    }

    /// Whether it has several loops, or can have.
    pub fn has_loops(&self) -> bool {
        LOOPS.contains(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_of_the_catalog_has_notes() {
        let has_notes = |name: &str| NOTES.iter().any(|notes| notes.name == name);
        let measured = all().iter().filter(|subject| subject.is_from_catalog());
        let missing: Vec<&str> =
            measured.map(|subject| subject.name).filter(|name| !has_notes(name)).collect();
        assert!(missing.is_empty(), "add notes to bench/src/subjects.rs for {missing:?}");
        let unknown: Vec<&str> = (NOTES.iter().map(|notes| notes.name))
            .filter(|name| catalog::find(name).is_none())
            .collect();
        assert!(unknown.is_empty(), "the catalog has no server {unknown:?}");
    }

    #[test]
    fn the_servers_that_the_benchmark_names_exist() {
        let baselines = all().iter().filter_map(|subject| subject.baseline);
        for name in baselines.chain([REFERENCE, POLLING]) {
            assert!(find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn models_limit_the_connections() {
        let limit = |name| find(name).map(|subject| subject.max_connections);
        assert_eq!(limit("blocking-echo-iterative"), Some(1));
        assert_eq!(limit("select-echo"), Some(1000));
        assert_eq!(limit("baseline-select"), Some(1000));
        assert_eq!(limit("aio-echo"), Some(1024));
        assert_eq!(limit("epoll-echo"), Some(usize::MAX));
    }
}
