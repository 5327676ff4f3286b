//! The contract over every server of the workspace: `LINE::SERVER::CASE`.
//!
//! `cargo test half_close` runs one line, `cargo test epoll_echo` one server,
//! `cargo test half_close::epoll_echo` one line on one server. `cargo test chat` runs the cases of
//! the chat servers, and `cargo test pitfalls` proves that the cases can fail.
//!
//! There is no trial for a case that does not apply to a server. A trial that this machine cannot
//! run shows as `ignored`.

mod catalog;
mod table;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context, ensure};
use contract::case::Skip;
use contract::catalog::{SERVERS, find};
use contract::pitfalls::PITFALLS;
use contract::{Case, Target, binaries, cases};
use integration_tests::sample;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most trials wait more than they compute: of two processors, four threads use less than one.
    let threads = thread::available_parallelism().map_or(4, |cores| 4 * cores.get());
    arguments.test_threads.get_or_insert(threads);
    if !arguments.list {
        let wrong = PITFALLS.iter().map(|pitfall| &pitfall.entry);
        let names = SERVERS.iter().chain(wrong).map(|entry| entry.name);
        if let Err(error) = binaries::build(names) {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        // The cases that need more file descriptors than the hard limit are ignored.
        let limit =
            Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) };
        let _ = setrlimit(Resource::Nofile, limit);
    }
    libtest_mimic::run(&arguments, sample::apply(trials())).exit_code()
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for entry in SERVERS {
        let target = Target::from(entry);
        for (line, cases) in cases::lines(entry.kind) {
            for case in cases.iter().filter(|case| case.applies(&target)) {
                let name = format!("{line}::{}::{}", entry.name.replace('-', "_"), case.name);
                let target = target.clone();
                trials.push(Trial::ignorable_test(name, move || {
                    complete(case, &target, |case| case.check(&target))
                }));
            }
        }
    }
    // The order of the contract, not of the servers.
    trials.sort_by_key(|trial| {
        let line = trial.name().split("::").next().unwrap_or_default().to_owned();
        let all = [cases::ECHO, cases::CHAT].concat();
        all.iter().position(|(name, _)| *name == line)
    });
    trials.extend(PITFALLS.iter().map(|pitfall| {
        let server = pitfall.entry.name.replace('-', "_");
        let name = format!("pitfalls::{server}::{}::{}", pitfall.line, pitfall.case);
        Trial::ignorable_test(name, || {
            let case = pitfall.case().map_err(|error| failed(&error))?;
            complete(case, &pitfall.target(), |_| {
                let message = pitfall.check()?;
                if std::env::var_os("SHOW_REASONS").is_some() {
                    eprintln!("{}: {message}", pitfall.entry.name);
                }
                Ok(())
            })
        })
    }));
    trials.extend(OTHER_DESIGNS.iter().map(|(case, server, reason)| {
        Trial::test(format!("other_design::{}::{case}", server.replace('-', "_")), move || {
            fails(case, server, reason).map_err(|error| failed(&error))
        })
    }));
    trials.extend(table::trials());
    trials.extend(catalog::trials());
    trials
}

/// The cases about the distribution of connections fail for a server that distributes them in
/// another way: the case, such a server, and the error message.
const OTHER_DESIGNS: [(&str, &str, &str); 4] = [
    ("in_turn", "epoll-echo-exclusive", "these got"),
    ("by_hash", "epoll-echo-exclusive", "only 1 of 3 workers"),
    ("first_idle", "epoll-echo-handoff", "several workers"),
    ("fewest", "epoll-echo-exclusive", "these got"),
];

fn fails(case: &str, server: &str, reason: &str) -> anyhow::Result<()> {
    let mut lines = cases::ECHO.iter().flat_map(|(_, cases)| *cases);
    let case = lines.find(|it| it.name == case).context("no such case")?;
    let target = find(server).map(Target::from).context("no such server")?;
    let error = case.check(&target).err().context("the server passes the case")?;
    ensure!(format!("{error:#}").contains(reason), "it fails for another reason: {error:#}");
    Ok(())
}

/// Runs a case, unless this machine does not have what the case or the server needs.
fn complete(
    case: &Case,
    target: &Target,
    run: impl FnOnce(&Case) -> anyhow::Result<()>,
) -> Result<Completion, Failed> {
    let missing = target.entry().and_then(|entry| (entry.unavailable)());
    if let Some(missing) = missing {
        return Ok(Completion::ignored_with(missing));
    }
    if let Some(Skip::DoesNotApply(reason) | Skip::Unavailable(reason)) = case.skip(target) {
        return Ok(Completion::ignored_with(reason));
    }
    run(case).map_err(|error| failed(&error))?;
    Ok(Completion::Completed)
}

fn failed(error: &anyhow::Error) -> Failed {
    format!("{error:#}").into()
}
