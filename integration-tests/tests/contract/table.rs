//! The tables of `docs/contract.md` that the tests generate: which server keeps which rule, and
//! which case catches which pitfall. The rest of the page is written by hand.
//!
//! The tables do not depend on the machine: a rule that cannot be tested there is promised all the
//! same. A check mark is true if the other tests pass.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use contract::cases::{CHAT, DATAGRAM, ECHO};
use contract::pitfalls::PITFALLS;
use contract::target::AtRest;
use contract::{Case, Kind, Target, catalog};
use integration_tests::Page;
use integration_tests::markdown::Table;
use libtest_mimic::{Completion, Failed, Trial};

/// Rewrites the table where it is set.
const UPDATE: &str = "UPDATE_DOCS";

const PAGE: &str = "docs/contract.md";

/// Not of the contract: what the log shows.
const BESIDE: &[&str] = &["log"];

/// Who may take so much for an idle client has a buffer for it, or a stack.
const SMALLEST_BUFFER: u64 = 4096;

type Contract = [(&'static str, &'static [Case])];

type Test = fn() -> Result<()>;

pub fn trials() -> impl Iterator<Item = Trial> {
    let tests: [(&str, Test); 7] = [
        ("docs_contract_md", is_current),
        ("docs_contract_md_names_every_rule", names_every_rule),
        ("every_line_can_fail", every_line_can_fail),
        ("every_pitfall_is_caught", every_pitfall_is_caught),
        ("every_gap_has_a_reason", every_gap_has_a_reason),
        ("every_pitfall_has_a_right_place", every_pitfall_has_a_right_place),
        ("every_right_place_names_it", every_right_place_names_it),
    ];
    tests.into_iter().map(|(name, test)| {
        Trial::ignorable_test(format!("table::{name}"), move || {
            test().map_err(|error| Failed::from(format!("{error:#}")))?;
            Ok(Completion::Completed)
        })
    })
}

fn targets(kind: Kind) -> impl Iterator<Item = Target> {
    catalog::servers(kind).map(Target::from)
}

fn is_datagram(target: &Target) -> bool {
    target.entry().is_some_and(|entry| entry.kind == Kind::Datagram)
}

fn root(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

fn lines(contract: &Contract) -> Vec<&'static str> {
    contract.iter().map(|(line, _)| *line).filter(|line| !BESIDE.contains(line)).collect()
}

/// Why the model of the server does not keep the line, or not all of it.
fn why_not(line: &str, target: &Target) -> Option<&'static str> {
    match line {
        "isolation" | "fairness" if !target.is_concurrent() => Some(
            "The server serves one client at a time. However slow that client is, the others wait.",
        ),
        "isolation" | "fairness" if is_datagram(target) => Some(
            "All peers share the two buffers of one socket. Replies to unreachable peers can fill the \
             send buffer for seconds, and a peer that floods can fill the receive buffer.",
        ),
        "fairness" if target.properties.computes_in_loop => {
            Some("While the server computes for one client (`/factor`), all others wait.")
        }
        "backpressure" if is_datagram(target) => {
            Some("UDP has no flow control: a datagram is lost if a buffer on its way is full.")
        }
        "limits" if target.properties.max_concurrent < usize::MAX => Some(
            "A client beyond the limit is not refused. It waits until another client disconnects.",
        ),
        "idle" if target.properties.at_rest == AtRest::Polls => {
            Some("Polling costs CPU time even if no data arrives.")
        }
        "idle" if target.properties.idle_memory.is_none_or(|bytes| bytes >= SMALLEST_BUFFER) => {
            Some(
                "The call that waits for a client needs a buffer before data arrives, so each idle connection has one.",
            )
        }
        _ => None,
    }
}

/// Nothing of the line can be asked of the server: its model has no such limit, or no connections.
fn has_nothing_to_keep(contract: &Contract, line: &str, target: &Target) -> bool {
    let mut all = contract.iter().filter(|(name, _)| *name == line).flat_map(|(_, cases)| *cases);
    !all.any(|case| case.applies(target))
}

/// The generated parts of the page begin with the heads of their tables. The first one ends at the
/// next heading, the second one at the end of the page.
fn is_current() -> Result<()> {
    let committed = fs::read_to_string(root(PAGE))?;
    let place = || {
        let first = committed.find("| server | isolation |")?;
        let between = first + committed[first..].find("\n## ")?;
        let second = between + committed[between..].find("| pitfall |")?;
        Some((first, between, second))
    };
    let (first, between, second) = place().context("the page has no place for the tables")?;
    let text = format!(
        "{}{}{}{}",
        &committed[..first],
        who_keeps_what(),
        &committed[between..second],
        what_catches_what()?
    );
    if env::var_os(UPDATE).is_some() {
        return fs::write(root(PAGE), text).with_context(|| format!("cannot write {PAGE}"));
    }
    let both = committed.lines().zip(text.lines());
    let differs = both.take_while(|(committed, line)| committed == line).count() + 1;
    ensure!(
        committed == text,
        "{PAGE} differs from the tests, from line {differs} on; \
         {UPDATE}=1 cargo test table:: rewrites it"
    );
    Ok(())
}

/// The page explains each line of the contract in a table whose first column is "rule".
fn names_every_rule() -> Result<()> {
    let page = Page::read(root(PAGE))?;
    let tables = page.tables.iter().filter(|table| table.column(&["rule"]) == Some(0));
    let rows: Vec<_> = tables.flat_map(Table::body).collect();
    for line in lines(ECHO).into_iter().chain(lines(DATAGRAM)).chain(lines(CHAT)) {
        let name = line.replace('_', "-");
        let explained = rows.iter().any(|row| row.cells.first().is_some_and(|it| it.text == name));
        ensure!(explained, "{PAGE} does not explain {name:?}");
    }
    Ok(())
}

fn who_keeps_what() -> String {
    let (mut text, mut reasons) = (String::new(), Vec::new());
    head(&mut text, ECHO);
    rows(&mut text, &mut reasons, ECHO, ECHO, Kind::Echo);
    rows(&mut text, &mut reasons, ECHO, DATAGRAM, Kind::Datagram);
    text += "\nThe chat servers also keep the rules of the chat room:\n\n";
    head(&mut text, CHAT);
    rows(&mut text, &mut reasons, CHAT, CHAT, Kind::Chat);
    text += "\n";
    for (number, reason) in (1..).zip(&reasons) {
        text += &format!("{number}. {reason}\n");
    }
    text
}

fn what_catches_what() -> Result<String> {
    let mut text = "| pitfall | the mistake | caught by |\n|---|---|---|\n".to_owned();
    for pitfall in PITFALLS {
        let (name, mistake) = (pitfall.entry.name, mistake(pitfall.entry.name)?);
        text += &format!(
            "| [`{name}`](../pitfalls/src/bin/{name}.rs) | {mistake} | `{}::{}` |\n",
            pitfall.line, pitfall.case
        );
    }
    Ok(text)
}

fn head(text: &mut String, contract: &Contract) {
    let lines = lines(contract);
    *text += "| server |";
    for line in &lines {
        *text += &format!(" {} |", line.replace('_', "-"));
    }
    *text += &format!("\n|---|{}\n", "---|".repeat(lines.len()));
}

/// A row for each of `servers`, whose cases are those of `contract`, below the head of `table`.
fn rows(
    text: &mut String,
    reasons: &mut Vec<&'static str>,
    table: &Contract,
    contract: &Contract,
    kind: Kind,
) {
    for target in targets(kind) {
        *text += &format!("| `{}` |", target.name);
        for line in &lines(table) {
            let cell = if let Some(reason) = why_not(line, &target) {
                let known = reasons.iter().position(|it| *it == reason);
                let number = known.unwrap_or_else(|| {
                    reasons.push(reason);
                    reasons.len() - 1
                });
                (number + 1).to_string()
            } else if has_nothing_to_keep(contract, line, &target) {
                "·".to_owned()
            } else {
                "✓".to_owned()
            };
            *text += &format!(" {cell} |");
        }
        *text += "\n";
    }
}

/// The paragraphs of the header of a wrong server: the mistake, what is seen, the rule, a command
/// that shows it, and where it is right.
fn header(name: &str) -> Result<Vec<String>> {
    let path = root("pitfalls/src/bin").join(format!("{name}.rs"));
    let source =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let header = source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let header = header.collect::<Vec<_>>().join("\n");
    let paragraphs: Vec<_> = header.split("\n\n").collect();
    for (label, paragraph) in
        ["Mistake", "Symptom", "Rule", "Reproduce", "Correct"].iter().zip(&paragraphs)
    {
        // A parenthesis may follow: "Reproduce (with OpenBSD's `nc`):".
        let rest = paragraph.strip_prefix(label).unwrap_or_default();
        let begins = rest.starts_with(':') || rest.starts_with(" (");
        ensure!(begins, "the header of {name} has {paragraph:?} in place of its {label:?}");
    }
    Ok(paragraphs.into_iter().map(|paragraph| paragraph.replace('\n', " ")).collect())
}

fn mistake(name: &str) -> Result<String> {
    let header = header(name)?;
    let mistake = header.first().and_then(|first| first.strip_prefix("Mistake: "));
    Ok(mistake.context("no mistake")?.trim_end_matches('.').to_owned())
}

/// The files of our servers that the header names, and that have to be there.
fn every_pitfall_has_a_right_place() -> Result<()> {
    for pitfall in PITFALLS {
        let name = pitfall.entry.name;
        let header = header(name)?;
        let right = header.last().context("no header")?;
        let files: Vec<_> = right.split('`').filter(|part| part.contains(".rs")).collect();
        ensure!(!files.is_empty(), "the header of {name} names no file that has it right");
        for file in files {
            ensure!(root(file).is_file(), "the header of {name} names {file}, which is not there");
        }
    }
    Ok(())
}

/// And at the place where a server of ours has it right, a comment names the pitfall.
fn every_right_place_names_it() -> Result<()> {
    let mut comments = String::new();
    for package in fs::read_dir(root(""))?.flatten() {
        let name = package.file_name().into_string().unwrap_or_default();
        if name == "common" || name.ends_with("-echo") || name.ends_with("-chat") {
            collect(&package.path().join("src"), &mut comments)?;
        }
    }
    for pitfall in PITFALLS {
        let name = pitfall.entry.name;
        let named = comments.lines().any(|line| line.contains("//") && line.contains(name));
        ensure!(named, "no comment in our servers names the pitfall {name}");
    }
    Ok(())
}

fn collect(folder: &Path, text: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), text)?;
        } else {
            *text += &fs::read_to_string(entry.path())?;
        }
    }
    Ok(())
}

fn every_line_can_fail() -> Result<()> {
    for line in lines(ECHO) {
        let caught = PITFALLS.iter().any(|pitfall| pitfall.line == line);
        ensure!(caught, "no pitfall shows that {line:?} can fail");
    }
    Ok(())
}

fn every_pitfall_is_caught() -> Result<()> {
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(root("pitfalls/src/bin"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        there.insert(name.trim_end_matches(".rs").to_owned());
    }
    let caught: BTreeSet<_> = PITFALLS.iter().map(|it| it.entry.name.to_owned()).collect();
    ensure!(there == caught, "the pitfalls are {there:?}, and those caught are {caught:?}");
    Ok(())
}

/// A case that a server is spared is about a limit of other models, or there is a reason for it.
fn every_gap_has_a_reason() -> Result<()> {
    for (line, cases) in ECHO.iter().filter(|(line, _)| !BESIDE.contains(line)) {
        for target in targets(Kind::Echo) {
            let spared = cases.iter().find(|case| !case.applies(&target));
            let Some(case) = spared else { continue };
            let about_others = matches!(*line, "closing" | "limits" | "workers" | "start");
            ensure!(
                about_others || why_not(line, &target).is_some(),
                "{} is spared {line}::{}, and nothing says why",
                target.name,
                case.name
            );
        }
    }
    for line in lines(ECHO) {
        let about_connections = matches!(
            line,
            "accept" | "half_close" | "closing" | "dead_peers" | "limits" | "workers"
        );
        let asked = DATAGRAM.iter().any(|(name, _)| *name == line);
        for target in targets(Kind::Datagram).filter(|_| !asked && !about_connections) {
            let why_not = why_not(line, &target);
            ensure!(why_not.is_some(), "{} is spared {line}, and nothing says why", target.name);
        }
    }
    Ok(())
}
