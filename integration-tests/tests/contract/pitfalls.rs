//! The proof that the cases can fail: each server of the package `pitfalls` is wrong in one way,
//! and fails the case named here, for the reason named here: `pitfalls::SERVER::LINE::CASE`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::Server;
use integration_tests::server::ECHO;
use libtest_mimic::{Completion, Failed, Trial};
use regex::Regex;

use crate::CONTRACT;
use crate::case::Case;
use crate::chat;

pub const PACKAGE: &str = "pitfalls";

/// How long a wrong server is waited for. The right ones have more time: see `PATIENCE`.
const PATIENCE: Duration = Duration::from_secs(4);

/// A wrong server, and how it is caught.
pub struct Pitfall {
    pub server: Server,
    /// The line of the contract, and its case.
    pub line: &'static str,
    pub case: &'static str,
    /// What the case says then; a regular expression.
    reason: &'static str,
}

const WRONG: Server = Server { package: PACKAGE, idle_clients: 10, ..ECHO };

const fn pitfall(
    name: &'static str,
    (line, case): (&'static str, &'static str),
    reason: &'static str,
) -> Pitfall {
    Pitfall { server: Server { name, ..WRONG }, line, case, reason }
}

/// One flood keeps the other one waiting, or both of them the third.
const UNFAIR: &str = "^(a flooding peer is hardly served|.* bytes echoed before it|.*nothing came)";

pub const PITFALLS: &[Pitfall] = &[
    // Where nothing fits any more, what is lost is the rest.
    pitfall(
        "write-ignored",
        ("whole", "short_writes"),
        "^(byte .* another than was sent|the connection ended: [0-9]+ of [0-9]+ bytes came back)",
    ),
    pitfall("wrong-offset", ("whole", "short_writes"), "^byte .* another than was sent"),
    pitfall("short-write-fatal", ("whole", "short_writes"), "^the connection ended|os error"),
    pitfall(
        "one-read-per-edge",
        ("whole", "sizes"),
        r"^a message of [0-9]+ bytes: no echo within 4 s",
    ),
    pitfall(
        "before-o-async",
        ("half_close", "all_before_accepted"),
        "bytes came back: nothing came for 4 s",
    ),
    pitfall("check-then-pause", ("whole", "windows"), "1 bytes, at most 1 on the way: no echo"),
    pitfall("hangup-closes", ("half_close", "data_and_fin_at_once"), "^1 bytes and FIN: "),
    pitfall("owed-dropped-at-eof", ("half_close", "data_and_fin_at_once"), "^1 bytes and FIN: "),
    pitfall("reads-while-owing", ("backpressure", "reads_late"), "took all .* reads nothing"),
    pitfall("edge-without-budget", ("fairness", "beside_two_floods"), UNFAIR),
    pitfall("two-small-writes", ("fairness", "alone"), "^every other echo took"),
    pitfall("accept-error-ends", ("accept", "starved"), "ended: exit status: 1.*os error 24"),
    pitfall("accept-spins", ("accept", "starved"), "^with clients waiting: starved, it used"),
    pitfall("spare-descriptor", ("accept", "full"), "^full: starved, it used"),
    Pitfall {
        server: Server { highest_descriptor: Some(1024), name: "fd-setsize-by-count", ..WRONG },
        line: "limits",
        case: "refuses_beyond",
        reason: "ended: exit status: 101",
    },
    Pitfall {
        server: Server { at_once: 1, name: "peer-error-ends", ..WRONG },
        line: "isolation",
        case: "resets_one_after_another",
        reason: "ended: exit status: 1.*os error 104",
    },
    pitfall("sigpipe-deadly", ("isolation", "gone_before_read"), "ended: signal: 13"),
    pitfall("handler-prints", ("start", "stdout_broken"), "panic"),
    pitfall("eintr-fatal", ("interruption", "idle"), "ended: exit status: 1.*EINTR"),
    pitfall(
        "flag-never-stops",
        ("shutdown", "sigterm_stalled_client"),
        "^the server has not ended in 4",
    ),
    pitfall("zombies", ("leaks", "rounds_of_200"), "zombies: [1-9].*coming to rest"),
    pitfall("unwrap-at-start", ("start", "in_use"), ": it ended with exit status: 101"),
    pitfall("writable-left-armed", ("idle", "no_processor_time"), "^with 10 idle .* woke up"),
    Pitfall {
        server: Server { idle_clients: 30, name: "aio-pool-of-twenty", ..WRONG },
        line: "idle",
        case: "active_among_idle",
        reason: "^(client [0-9]+ of 30: )?0 of [0-9]+ bytes came back: nothing came for 4 s",
    },
    pitfall(
        "blocking-broadcast",
        ("chat_room", "stalled_guest"),
        "^beside .*: nothing came for 4 s",
    ),
    pitfall("unbounded-queue", ("chat_room", "bounded_queue"), "^the server took .* does not read"),
    pitfall(
        "lock-while-broadcasting",
        ("chat_room", "crosstalk"),
        "nothing (came|was taken) for 4 s",
    ),
    pitfall("one-shot-rearmed", ("chat_room", "crosstalk"), "heard .* instead of"),
    pitfall("aio-write-behind-read", ("chat_room", "listener"), "^nothing came for 4 s"),
    pitfall("aio-close-in-flight", ("chat_room", "idle"), "^after goodbye: .*did not end"),
];

impl Pitfall {
    fn case(&self) -> Result<&'static Case> {
        let mut lines = CONTRACT.iter().chain(chat::CONTRACT);
        let (_, cases) = lines.find(|(line, _)| *line == self.line).context("no such line")?;
        cases.iter().find(|case| case.name == self.case).context("no such case")
    }

    /// Whether the case fails, for the reason that is named.
    fn check(&'static self) -> Result<Completion> {
        let case = self.case()?;
        ensure!((case.applies)(&self.server), "the case does not apply to the server");
        if let Some(lack) = (case.lacks)().or_else(self.server.lacks) {
            return Ok(Completion::ignored_with(lack));
        }
        let failure = case.check_with(&self.server, PATIENCE).err();
        let failure = format!("{:#}", failure.context("the case has not caught it")?);
        let reason = Regex::new(&format!("(?s){}", self.reason))?;
        ensure!(reason.is_match(&failure), "it failed for another reason:\n{failure}");
        if std::env::var_os("SHOW_REASONS").is_some() {
            eprintln!("{}: {failure}", self.server.name);
        }
        Ok(Completion::Completed)
    }
}

pub fn trials() -> impl Iterator<Item = Trial> {
    PITFALLS.iter().map(|pitfall| {
        let server = pitfall.server.name.replace('-', "_");
        let name = format!("pitfalls::{server}::{}::{}", pitfall.line, pitfall.case);
        Trial::ignorable_test(name, || {
            pitfall.check().map_err(|error| Failed::from(format!("{error:#}")))
        })
    })
}
