//! The contract, line by line, over every server: `LINE::SERVER::CASE`.
//!
//! `cargo test half_close` runs one line, `cargo test epoll_echo` one server,
//! `cargo test half_close::epoll_echo` one line on one server. A pair of a case and a server
//! that it does not apply to is not there (the server of datagrams has a line of its own); what this machine cannot run shows as `ignored`.

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

mod pitfalls;
mod room;
mod table;

use std::process::ExitCode;

use integration_tests::binaries;
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use case::Case;
use servers::{DATAGRAMS, SERVERS};

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
        let mut packages: Vec<_> = SERVERS.iter().map(|server| server.package).collect();
        packages.dedup();
        packages.extend(room::SERVERS.iter().map(|server| server.package));
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
    let mut trials = Vec::new();
    for case in datagrams::CASES {
        let name = format!("datagrams::{}::{}", DATAGRAMS.name.replace('-', "_"), case.name);
        trials.push(Trial::ignorable_test(name, || case.trial(&DATAGRAMS)));
    }
    for (line, cases) in CONTRACT {
        for case in *cases {
            for server in SERVERS.iter().filter(|server| (case.applies)(server)) {
                let name = format!("{line}::{}::{}", server.name.replace('-', "_"), case.name);
                trials.push(Trial::ignorable_test(name, || case.trial(server)));
            }
        }
    }
    trials.extend(room::trials());
    trials.extend(pitfalls::trials());
    trials.extend(table::trials());
    trials
}
