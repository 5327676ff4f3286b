//! The servers that make one mistake each, and the case that each of them fails.
//!
//! They prove that the cases can fail. The program `contract` also reads this list: if a server
//! fails a case as one of these does, it names the pitfall as the likely cause.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

use crate::case::LIMIT;
use crate::catalog::{ECHO, Entry};
use crate::probe::{Probe, Protocol};
use crate::server::no_io_uring;
use crate::target::{Properties, Spread};
use crate::{Case, Target, cases};

/// The package of these servers.
pub const PACKAGE: &str = "pitfalls";

/// The timeout for a server that is wrong. It is shorter than [`TIMEOUT`](crate::TIMEOUT), because
/// many of these servers let a client wait for ever.
const TIMEOUT: Duration = Duration::from_secs(4);

/// A server that makes one mistake, and the case that it fails.
#[derive(Debug)]
pub struct Pitfall {
    /// The server.
    pub entry: Entry,
    /// The line of the contract that it does not keep.
    pub line: &'static str,
    /// The case of that line that it fails.
    pub case: &'static str,
    /// Why the case fails: a regular expression for its error message.
    pub reason: &'static str,
    /// Other lines that the mistake breaks by its nature.
    also: &'static [&'static str],
    /// Whether it is an HTTP server.
    http: bool,
}

const WRONG: Entry = Entry { package: PACKAGE, properties: FEW_CLIENTS, ..ECHO };

/// A chat server that disconnects an idle client, and forwards nothing: a room for one.
const ROOM_FOR_ONE: Properties =
    Properties { max_concurrent: 1, idle_timeout: Some(Duration::from_secs(1)), ..FEW_CLIENTS };

/// A server with three worker processes, one client each.
const PREFORK: Properties = Properties {
    max_concurrent: 3,
    descriptors_per_client: Some(0),
    worker_processes: true,
    ..FEW_CLIENTS
};

const FEW_CLIENTS: Properties = Properties { idle_clients: 10, ..Properties::DEFAULT };

const fn pitfall(
    name: &'static str,
    (line, case): (&'static str, &'static str),
    reason: &'static str,
) -> Pitfall {
    Pitfall { entry: Entry { name, ..WRONG }, line, case, reason, also: &[], http: false }
}

/// One flood delays the other one, which may not be served at all, or both of them delay the third
/// client.
const UNFAIR: &str = "^(beside one flood: |a flooding client is hardly served|two floods had .* \
    bytes echoed|.*received nothing)";

/// All pitfalls.
pub const PITFALLS: &[Pitfall] = &[
    // When the socket takes nothing more, the rest is lost.
    pitfall(
        "write-ignored",
        ("integrity", "short_writes"),
        "^(byte .* differs from the byte sent|no progress for [0-9.]+ s: [0-9]+ of [0-9]+ bytes)",
    ),
    pitfall("wrong-offset", ("integrity", "short_writes"), "^byte .* differs from the byte sent"),
    pitfall("short-write-fatal", ("integrity", "short_writes"), "^the connection ended|os error"),
    pitfall(
        "short-send-in-a-link",
        ("integrity", "short_writes"),
        "^(byte .* differs from the byte sent|no progress for [0-9.]+ s: [0-9]+ of [0-9]+ bytes)",
    )
    .with_io_uring(),
    pitfall(
        "waker-forgotten",
        ("integrity", "short_writes"),
        "^no progress for [0-9.]+ s: [0-9]+ of [0-9]+ bytes",
    ),
    pitfall(
        "cancel-loses-bytes",
        ("integrity", "large"),
        "^(byte .* differs from the byte sent|no progress for [0-9.]+ s: [0-9]+ of [0-9]+ bytes)",
    ),
    pitfall(
        "one-read-per-edge",
        ("integrity", "sizes"),
        r"^a message of [0-9]+ bytes: no progress for [0-9.]+ s",
    ),
    pitfall(
        "before-o-async",
        ("integrity", "sent_before_accept"),
        "received nothing for [0-9.]+ s",
    ),
    pitfall(
        "check-then-pause",
        ("integrity", "windows"),
        "1 bytes, at most 1 in flight: no progress",
    ),
    pitfall("hangup-closes", ("half_close", "data_and_fin_at_once"), "^after 1 bytes and FIN: "),
    pitfall(
        "pending-output-dropped-at-eof",
        ("half_close", "data_and_fin_at_once"),
        "^after 1 bytes and FIN: ",
    ),
    pitfall(
        "reads-with-pending-output",
        ("backpressure", "reads_late"),
        "took .* a client that does not read",
    ),
    pitfall(
        "short-read-taken-for-empty",
        ("isolation", "urgent_data"),
        "received 3 of 6 bytes: received nothing for [0-9.]+ s",
    ),
    pitfall(
        "close-with-unread-input",
        ("closing", "late_input"),
        "^the response to the last request: .*os error 104",
    )
    .with_http(),
    pitfall(
        "edge-shared-by-threads",
        ("integrity", "large"),
        "^byte .* differs from the byte sent",
    ),
    pitfall(
        "multishot-no-backpressure",
        ("backpressure", "reads_late"),
        "took .* a client that does not read",
    )
    .with_io_uring(),
    pitfall(
        "enobufs-spins",
        ("backpressure", "stalled_client_uses_no_cpu"),
        "^beside a client that does not read: .*the server used",
    )
    .with_io_uring(),
    pitfall("edge-without-budget", ("fairness", "beside_two_floods"), UNFAIR),
    pitfall("two-small-writes", ("fairness", "no_added_latency"), "^every other response took"),
    pitfall(
        "accept-error-ends",
        ("accept", "out_of_descriptors"),
        "ended: exit status: 1.*(os error 24|EMFILE|Too many open files)",
    ),
    pitfall(
        "one-accept-per-edge",
        ("accept", "burst"),
        "^waited [0-9.]+ s for 10 more of [0-9]+ waiting clients",
    ),
    pitfall(
        "blocking-behind-select",
        ("isolation", "existing_clients"),
        "^client [0-9]+ of [0-9]+: .*received nothing for [0-9.]+ s",
    )
    // Both threads can block in accept, each with connections that it then does not serve.
    .also(&["accept"]),
    pitfall("thundering-herd", ("accept", "wake_ups"), "^each new connection caused"),
    pitfall(
        "cqe-more-ignored",
        ("accept", "out_of_descriptors"),
        "^after one connection was closed: waited [0-9.]+ s",
    )
    .with(Properties { keeps_fd_limit: true, ..FEW_CLIENTS })
    .with_io_uring(),
    pitfall(
        "accept-error-retried",
        ("accept", "accept_fails"),
        "^while accept fails with EPERM: the server used",
    ),
    pitfall(
        "accept-spins",
        ("accept", "out_of_descriptors"),
        "^with (clients waiting|no client connected): the server used",
    ),
    pitfall(
        "spare-descriptor",
        ("accept", "full"),
        "^with all file descriptors used: the server used",
    ),
    pitfall("fd-setsize-by-count", ("limits", "refuses_surplus"), "ended: exit status: 101")
        .with(Properties { fd_setsize: Some(1024), ..FEW_CLIENTS }),
    pitfall(
        "peer-error-ends",
        ("isolation", "resets_one_after_another"),
        "ended: exit status: 1.*(os error 104|ECONNRESET|Connection reset)",
    )
    .with(Properties { max_concurrent: 1, ..FEW_CLIENTS })
    // Their clients reset the connection, or keepalive gives it up.
    .also(&["backpressure", "dead_peers"]),
    pitfall(
        "blocking-socket-drained",
        ("isolation", "existing_clients"),
        "^client 2 of 2: .*received nothing for [0-9.]+ s",
    )
    // The first client that sends nothing more holds up all that wait.
    .also(&["accept"]),
    pitfall(
        "main-waits-for-worker",
        ("isolation", "stalled_client"),
        "^beside a .*received nothing for [0-9.]+ s",
    ),
    pitfall(
        "blocking-in-task",
        ("isolation", "stalled_client"),
        "^beside a .*received nothing for [0-9.]+ s",
    ),
    pitfall("panic-in-worker", ("isolation", "garbage"), "received nothing for [0-9.]+ s"),
    pitfall("sigpipe-deadly", ("isolation", "disconnected_before_read"), "ended: signal: 13")
        // Its stdout may be a broken pipe too.
        .also(&["start"]),
    pitfall("handler-prints", ("start", "stdout_broken"), "panic"),
    pitfall("eintr-fatal", ("interruption", "idle"), "ended: exit status: 1.*EINTR")
        // Their cases stop the server too, so that several events are ready at once.
        .also(&["integrity", "accept"]),
    pitfall("spurious-poll-taken-for-ready", ("interruption", "idle"), "connection ended"),
    pitfall(
        "worker-not-replaced",
        ("workers", "killed_worker"),
        "^waited [0-9.]+ s for the killed worker to be replaced",
    )
    .with(PREFORK),
    pitfall(
        "worker-replaced-at-once",
        ("workers", "workers_end_at_once"),
        "^the server started 9 workers within",
    )
    .with(PREFORK),
    pitfall(
        "workers-outlive-parent",
        ("workers", "killed_parent"),
        "^after the parent was killed: waited [0-9.]+ s",
    )
    .with(PREFORK)
    // After SIGTERM, too, the workers are left.
    .also(&["shutdown", "start", "log"]),
    pitfall(
        "acceptor-waits-for-loop",
        ("workers", "stopped_worker"),
        "^(while one worker is stopped|after the worker has continued): waited [0-9.]+ s",
    )
    .with(Properties { spread: Some(Spread::InTurn), ..FEW_CLIENTS }),
    pitfall(
        "flag-never-stops",
        ("shutdown", "sigterm_stalled_client"),
        "^the server has not ended after [0-9.]+ s",
    ),
    pitfall(
        "blocked-signals-inherited",
        ("shutdown", "signals_blocked_by_parent"),
        "was blocked at start: the server has not ended after [0-9.]+ s",
    ),
    pitfall(
        "signal-deferred-at-start",
        ("start", "sigterm_during_lookup"),
        "^the server (took .* s to end|has not ended after)",
    ),
    pitfall(
        "announced-too-early",
        ("start", "few_descriptors"),
        "announced itself.* and then ended",
    ),
    pitfall("spawn-panics", ("start", "no_threads"), "ended: (exit status: 101|.*has panicked)"),
    pitfall(
        "log-blocks-server",
        ("log", "full_pipe"),
        "^while nobody reads the log: .*received nothing for [0-9.]+ s",
    ),
    pitfall("no-keepalive", ("dead_peers", "keepalive"), "^keepalive is off"),
    pitfall("zombies", ("leaks", "rounds_of_200"), "zombies: [1-9].*to be as before"),
    pitfall("unwrap-at-start", ("start", "in_use"), ": the server ended with exit status: 101"),
    pitfall("question-mark-in-log", ("start", "in_use"), "has not ended"),
    pitfall("writable-left-armed", ("idle", "no_processor_time"), "^with 10 idle .* woke up")
        // The clients of these cases are idle too.
        .also(&["accept"]),
    pitfall(
        "aio-pool-of-twenty",
        ("idle", "active_among_idle"),
        "^(client [0-9]+ of 30: )?received 0 of [0-9]+ bytes: received nothing for [0-9.]+ s",
    )
    .with(Properties { idle_clients: 30, ..FEW_CLIENTS }),
    pitfall(
        "blocking-broadcast",
        ("chat_room", "stalled_client"),
        "^beside .*: received nothing for [0-9.]+ s",
    ),
    pitfall("unbounded-queue", ("chat_room", "bounded_queue"), "^the server took .* does not read"),
    pitfall(
        "lock-while-broadcasting",
        ("chat_room", "crosstalk"),
        "(received nothing|could not send) for [0-9.]+ s",
    ),
    pitfall("one-shot-rearmed", ("chat_room", "crosstalk"), "received .* instead of"),
    pitfall("aio-write-behind-read", ("chat_room", "listener"), "^received nothing for [0-9.]+ s"),
    pitfall(
        "timer-before-input",
        ("chat_idle_timeout", "input_before_deadline"),
        "the server was stopped for [0-9.]+ s, .* received .* idle for",
    )
    .with(ROOM_FOR_ONE),
    pitfall("aio-close-in-flight", ("chat_room", "idle"), "^after the goodbye.*did not end")
        .with(ROOM_FOR_ONE)
        // The read that is in progress may not have taken the input yet when the time is over.
        .also(&["chat_idle_timeout"]),
];

impl Pitfall {
    /// The same, for a server with these properties.
    const fn with(mut self, properties: Properties) -> Self {
        self.entry.properties = properties;
        self
    }

    /// The same, for an HTTP server.
    const fn with_http(mut self) -> Self {
        self.http = true;
        self
    }

    /// The same, for a server that needs `io_uring`.
    const fn with_io_uring(mut self) -> Self {
        self.entry.unavailable = no_io_uring;
        self
    }

    /// The same, for a mistake that breaks these lines too.
    const fn also(mut self, lines: &'static [&'static str]) -> Self {
        self.also = lines;
        self
    }

    /// The lines of the contract that the server may fail.
    pub fn lines(&self) -> impl Iterator<Item = &'static str> {
        [self.line].into_iter().chain(self.also.iter().copied())
    }

    /// With which options the program `contract` checks the server, and with which arguments the
    /// server then starts.
    #[must_use]
    pub fn command_line(&'static self) -> (Vec<String>, Vec<String>) {
        let properties = &self.entry.properties;
        let mut options = properties.options();
        if self.http {
            options.extend(["--probe", "http"].map(str::to_owned));
        }
        if self.line.starts_with("chat") {
            options.extend(["--probe", "chat"].map(str::to_owned));
        }
        let mut arguments = vec!["{addr}".to_owned()];
        if let Some(timeout) = properties.idle_timeout {
            arguments.push(timeout.as_secs().to_string());
        }
        (options, arguments)
    }

    /// The server as the case sees it.
    #[must_use]
    pub fn target(&'static self) -> Target {
        let mut target = Target::from(&self.entry);
        if self.http {
            target.probe = Probe::new(Protocol::Http("/".to_owned()));
        }
        target
    }

    /// The case that the server fails.
    pub fn case(&self) -> Result<&'static Case> {
        let mut lines = cases::ECHO.iter().chain(cases::CHAT);
        let (_, cases) = lines.find(|(line, _)| *line == self.line).context("no such line")?;
        cases.iter().find(|case| case.name == self.case).context("no such case")
    }

    /// Checks that the server fails the case for the reason given. Returns the error message.
    pub fn check(&'static self) -> Result<String> {
        let case = self.case()?;
        let target = self.target();
        ensure!(case.applies(&target), "the case does not apply to the server");
        let reason = Regex::new(&format!("(?s){}", self.reason))?;
        let mut failure = String::new();
        // On a busy machine the timeout may be the first that fails, so the second one is longer.
        for timeout in [TIMEOUT, 3 * TIMEOUT] {
            let error = case.check_within(&target, timeout, LIMIT).0.err();
            failure = format!("{:#}", error.context("the server passes the case")?);
            if reason.is_match(&failure) {
                return Ok(failure);
            }
        }
        bail!("the case fails for another reason:\n{failure}")
    }
}

/// The pitfall with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Pitfall> {
    PITFALLS.iter().find(|pitfall| pitfall.entry.name == name)
}

/// The pitfalls that fail this case with a message like this, or else those that fail the same line
/// with such a message.
#[must_use]
pub fn similar(line: &str, case: &str, message: &str) -> Vec<&'static Pitfall> {
    let matches = |pitfall: &&Pitfall| {
        let reason = Regex::new(&format!("(?s){}", pitfall.reason));
        pitfall.line == line && reason.is_ok_and(|reason| reason.is_match(message))
    };
    let all: Vec<_> = PITFALLS.iter().filter(matches).collect();
    let same_case: Vec<_> = all.iter().copied().filter(|pitfall| pitfall.case == case).collect();
    let mut similar = if same_case.is_empty() { all } else { same_case };
    // That the server has ended explains what its clients saw then.
    let is_about_end = |pitfall: &&Pitfall| pitfall.reason.contains("ended: ");
    if message.contains("The server has ended") && similar.iter().any(is_about_end) {
        similar.retain(is_about_end);
    }
    similar
}
