//! The contract, line by line, over every server: `LINE::SERVER::CASE`.
//!
//! `cargo test half_close` runs one line, `cargo test epoll_echo` one server,
//! `cargo test half_close::epoll_echo` one line on one server. A pair of a case and a server
//! that it does not apply to is not there; what this machine cannot run shows as `ignored`.
//!
//! A chat server keeps the same contract, but speaks otherwise: its cases are in `chat`, and those
//! of the room's rules with them. `cargo test chat` runs all of these. What the contract comes to
//! for the server that has no connections, is in `datagrams`.

mod case;
mod servers;

mod accept;
mod backpressure;
mod datagrams;
mod fairness;
mod half_close;
mod idle;
mod interruption;
mod isolation;
mod leaks;
mod limits;
mod log;
mod shutdown;
mod start;
mod whole;

mod chat;
mod pitfalls;
mod room;
mod table;

use std::process::ExitCode;

use integration_tests::{Server, binaries};
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use case::Case;
use servers::{CHATS, DATAGRAMS, SERVERS};

/// The lines of the contract, in its order; then what the command line promises.
const CONTRACT: &[(&str, &[Case])] = &[
    ("isolation", isolation::CASES),
    ("accept", accept::CASES),
    ("whole", whole::CASES),
    ("backpressure", backpressure::CASES),
    ("half_close", half_close::CASES),
    ("fairness", fairness::CASES),
    ("limits", limits::CASES),
    ("interruption", interruption::CASES),
    ("shutdown", shutdown::CASES),
    ("leaks", leaks::CASES),
    ("start", start::CASES),
    ("idle", idle::CASES),
    ("log", log::CASES),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        let servers = SERVERS.iter().chain(CHATS);
        let mut packages: Vec<_> = servers.map(|server| server.package).collect();
        packages.dedup();
        packages.push(pitfalls::PACKAGE);
        if let Err(error) = binaries::build(&packages) {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        // Best effort: the cases that need more than there is say so.
        let limit =
            Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) };
        let _ = setrlimit(Resource::Nofile, limit);
    }
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let mut trials = trials_of(CONTRACT, SERVERS);
    trials.extend(trials_of(datagrams::CONTRACT, DATAGRAMS));
    trials.extend(trials_of(chat::CONTRACT, CHATS));
    trials.extend(pitfalls::trials());
    trials.extend(table::trials());
    trials
}

fn trials_of(contract: &'static [(&str, &[Case])], servers: &'static [Server]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (line, cases) in contract {
        for case in *cases {
            for server in servers.iter().filter(|server| (case.applies)(server)) {
                let name = format!("{line}::{}::{}", server.name.replace('-', "_"), case.name);
                trials.push(Trial::ignorable_test(name, || case.trial(server)));
            }
        }
    }
    trials
}
