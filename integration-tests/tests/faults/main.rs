//! Fault injection: every system call that a server makes, failed with every error that its man page
//! allows. `faults::SERVER::CALL`.
//!
//! strace injects the errors while a few clients use the server. The oracle is the contract: every
//! other client's bytes complete and in order, no hang, no busy loop, no panic, file descriptors
//! returned, a new client served, and a clean exit on SIGTERM. What a server must do about each
//! error is in [`table`], and so is what is not injected, with the reason.
//!
//! `cargo test --test faults` takes a sample of each trial's faults, chosen by `FAULTS_SEED` or by
//! the day. `FAULTS=all cargo test --test faults` injects all of them.

mod injection;
mod load;
mod page;
mod record;
mod shim;
mod start;
mod table;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, iter};

use anyhow::{Context, Result, ensure};
use contract::binaries;
use contract::catalog::{Entry, Kind, SERVERS};
use integration_tests::sample;
use libtest_mimic::{Arguments, Failed, Trial};

use injection::{Injection, When};
use table::{NOT_INJECTED, ROWS, Response, Row};

/// Faults per trial in a sample.
const SAMPLE: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each trial runs a server, a tracer and clients.
    arguments.test_threads.get_or_insert(4);
    let missing = record::cannot_trace();
    if !arguments.list {
        if let Err(error) = binaries::build(SERVERS.iter().map(|entry| entry.name)) {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    if let Some(missing) = missing {
        eprintln!("faults: nothing is injected: {missing}");
    }
    let mut trials = page::trials();
    for entry in SERVERS.iter().filter(|entry| entry.kind != Kind::Datagram) {
        let ignored = missing.is_some() || (entry.unavailable)().is_some();
        let server = entry.name.replace('-', "_");
        trials.push(
            Trial::test(format!("calls::{server}"), || known_calls(entry).map_err(failed))
                .with_ignored_flag(ignored),
        );
        trials.push(
            Trial::test(format!("at_start::{server}"), || start::check(entry).map_err(failed))
                .with_ignored_flag(ignored),
        );
        // In a run of samples it would take longer than the trials, so `sweep` does it for its server.
        let record = !ignored && !arguments.list && !sample::is_set();
        // A recording that fails is reported by the trial `calls`.
        let made = record.then(|| record::calls(entry).unwrap_or_default());
        let used = |call: &&str| made.as_ref().is_none_or(|made| made.contains(*call));
        for call in calls(entry).into_iter().filter(used) {
            trials.push(
                Trial::test(format!("faults::{server}::{call}"), move || {
                    sweep(entry, call).map_err(failed)
                })
                .with_ignored_flag(ignored),
            );
        }
        let out_of_reach = shim::OUT_OF_REACH.iter().any(|(name, _)| *name == entry.name);
        let spurious = shim::WAITS_IN_LIBC.contains(&entry.name).then_some("spurious");
        let short = (!out_of_reach).then_some(["one", "half"]);
        for mode in short.into_iter().flatten().chain(spurious) {
            let line = if mode == "spurious" { "spurious" } else { "short_counts" };
            trials.push(Trial::test(format!("{line}::{server}::{mode}"), move || {
                shim::check(entry, mode).map_err(failed)
            }));
        }
    }
    libtest_mimic::run(&arguments, sample::apply(trials)).exit_code()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// The rows that apply to a server.
fn rows(entry: &Entry) -> impl Iterator<Item = &'static Row> {
    let name = entry.name;
    ROWS.iter().filter(move |row| {
        let applies = row.only.is_empty() || row.only.contains(&name);
        applies && !row.except.contains(&name) && !row.untested.contains(&name)
    })
}

fn calls(entry: &Entry) -> BTreeSet<&'static str> {
    rows(entry).map(|row| row.call).collect()
}

/// Every call that the server makes while it serves is in the table, or in the list of calls that are
/// not injected.
fn known_calls(entry: &'static Entry) -> Result<()> {
    let known = calls(entry);
    let unknown: Vec<String> = record::calls(entry)?
        .into_iter()
        .filter(|call| !known.contains(call.as_str()))
        .filter(|call| {
            call != "poll"
                && !NOT_INJECTED.iter().any(|(calls, _)| calls.split(' ').any(|it| it == call))
        })
        .collect();
    ensure!(unknown.is_empty(), "no row of the table says what happens if {unknown:?} fail");
    Ok(())
}

/// Injects the faults of one call, or a sample of them.
fn sweep(entry: &'static Entry, call: &'static str) -> Result<()> {
    if sample::is_set() && !record::calls(entry)?.contains(call) {
        return Ok(()); // the server does not make this call, so it cannot fail
    }
    let mut injections: Vec<Injection> = rows(entry)
        .filter(|row| row.call == call)
        .flat_map(|row| row.errors.iter().flat_map(move |error| injections(row, error)))
        .collect();
    if env::var("FAULTS").as_deref() != Ok("all") {
        let mut random = fastrand::Rng::with_seed(seed()?);
        random.shuffle(&mut injections);
        injections.truncate(SAMPLE);
    }
    for injection in &injections {
        injection::check(entry, injection)?;
    }
    Ok(())
}

fn injections(row: &'static Row, error: &'static str) -> Vec<Injection> {
    let once = (1..=row.occurrences).map(When::Once);
    // An endless series of signals is not a fault that a kernel has.
    let persists = row.persists && row.response != Response::Ends && error != "EINTR";
    let recovers = persists.then_some(When::AlwaysThenRecovers);
    let stops = (persists && row.stops).then_some(When::AlwaysThenStops);
    iter::empty()
        .chain(once)
        .chain(recovers)
        .chain(stops)
        .map(|when| Injection { call: row.call, error, response: row.response, when })
        .collect()
}

/// `FAULTS_SEED`, or the number of the day: the sample rotates, and a day's runs are alike.
fn seed() -> Result<u64> {
    match env::var("FAULTS_SEED") {
        Ok(seed) => seed.parse().context("FAULTS_SEED is not a number"),
        Err(_) => Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400),
    }
}
