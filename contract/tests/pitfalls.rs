//! Each pitfall, run by the program `contract` as a server of somebody else, fails its line of the
//! contract and no other.
//!
//! A run over all lines takes half a minute. So `cargo test` checks one pitfall, and only with the
//! line that it fails, a line that it fails because of that, and a line that it keeps. This checks
//! all pitfalls with all lines:
//!
//! ```text
//! TEST_PITFALLS=all cargo test -p contract --test pitfalls
//! ```

mod common;

use std::collections::BTreeSet;
use std::env;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use contract::pitfalls::{PITFALLS, Pitfall};
use serde_json::Value;

use common::{run, server};

/// `all`, or the name of a pitfall.
const CHOICE: &str = "TEST_PITFALLS";

/// The pitfall that `cargo test` checks. It loses data, so it also loses data after a half-close,
/// which the report must not judge.
const USUAL: &str = "write-ignored";
/// The lines that `cargo test` checks.
const USUAL_LINES: &[&str] = &["--only", "integrity", "--only", "half_close", "--only", "idle"];

/// A case that fails although it should not gets so much time when it is repeated.
const TIMEOUTS: [&str; 2] = ["2", "10"];

#[test]
fn fail_their_line_and_no_other() -> Result<()> {
    let choice = env::var(CHOICE).ok();
    let lines = if choice.is_some() { &[] } else { USUAL_LINES };
    let mut wrong = Vec::new();
    for pitfall in chosen(choice.as_deref().unwrap_or(USUAL))? {
        match check(pitfall, lines) {
            Ok(lines) => eprintln!("{} fails {lines:?}", pitfall.entry.name),
            Err(error) => wrong.push(format!("{}: {error:#}", pitfall.entry.name)),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

#[test]
fn have_at_most_75_lines() -> Result<()> {
    const MOST: usize = 75;
    for pitfall in PITFALLS {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../pitfalls/src/bin");
        let file = format!("{folder}/{}.rs", pitfall.entry.name);
        let lines = fs::read_to_string(&file).context(file.clone())?.lines().count();
        ensure!(lines <= MOST, "{file} has {lines} lines");
    }
    Ok(())
}

/// `all`: all that can run here.
fn chosen(choice: &str) -> Result<Vec<&'static Pitfall>> {
    if choice == "all" {
        let can_run = |pitfall: &&Pitfall| (pitfall.entry.unavailable)().is_none();
        return Ok(PITFALLS.iter().filter(can_run).collect());
    }
    let pitfall = contract::pitfalls::find(choice);
    Ok(vec![pitfall.with_context(|| format!("there is no pitfall {choice:?}"))?])
}

/// Runs the cases that the options `only` choose. Returns the lines that the pitfall fails.
fn check(pitfall: &'static Pitfall, only: &[&str]) -> Result<BTreeSet<String>> {
    let failed = failed_cases(pitfall, TIMEOUTS[0], only)?;
    let is_expected = |case: &String| pitfall.lines().any(|line| is_of(case, line));
    let unexpected: Vec<_> = failed.iter().filter(|case| !is_expected(case)).collect();
    // On a busy machine a case may fail by chance.
    for case in unexpected {
        let again = failed_cases(pitfall, TIMEOUTS[1], &["--only", case])?;
        if again.contains(case) {
            bail!("it fails {case} too, and not only {}", pitfall.line);
        }
    }
    let mut lines: BTreeSet<_> = failed.iter().filter(|case| is_expected(case)).collect();
    let own = format!("{}::{}", pitfall.line, pitfall.case);
    let fails_own = lines.iter().any(|case| is_of(case, pitfall.line));
    if !fails_own && failed_cases(pitfall, TIMEOUTS[0], &["--only", &own])?.contains(&own) {
        lines.insert(&own);
    }
    let lines: BTreeSet<_> = lines.into_iter().filter_map(|case| case.split("::").next()).collect();
    ensure!(lines.contains(pitfall.line), "it passes {}", pitfall.line);
    Ok(lines.into_iter().map(str::to_owned).collect())
}

fn is_of(case: &str, line: &str) -> bool {
    case.split("::").next() == Some(line)
}

/// The cases that the report marks as not kept.
fn failed_cases(pitfall: &'static Pitfall, timeout: &str, only: &[&str]) -> Result<Vec<String>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("report.json").display().to_string();
    let (options, arguments) = pitfall.command_line();
    let program = server(pitfall.entry.name)?;
    let mut words = vec!["--json", &file, "--jobs", "6", "--timeout", timeout];
    words.extend(only);
    words.extend(options.iter().map(String::as_str));
    words.extend(["--", &program]);
    words.extend(arguments.iter().map(String::as_str));
    let output = run(&words)?;
    ensure!(output.status != Some(2), "the cases could not run: {}", output.stderr);
    let report: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let mut failed = Vec::new();
    for line in report["lines"].as_array().context("no lines")? {
        for case in line["cases"].as_array().context("no cases")? {
            if case["verdict"] == "NOT KEPT" {
                let names = [&line["name"], &case["name"]].map(Value::as_str);
                let [Some(line), Some(case)] = names else { bail!("a case has no name") };
                failed.push(format!("{line}::{case}"));
            }
        }
    }
    Ok(failed)
}
