//! The page `docs/scoreboard.md`.

use std::fmt::Write;
use std::fs;

use contract::{cases, pitfalls};
use serde_json::Value;

use crate::Outcome;
use crate::programs::{Note, Program};

const BEGINNING: &str = "\
# Scoreboard

Which rules of [the contract](contract.md) do well-known servers keep, and which do the echo servers keep that the
documentation of other languages and libraries teaches?

One command runs the contract against all of them and writes this page:

```sh
cargo run --release -p contract --example scoreboard
```

The servers for production run as Debian ships them. The other programs are in
[`contract/examples`](../contract/examples). They were written for this page, each as its documentation teaches it, and
they leave out what the documentation leaves out. The example of a
documentation explains an interface. It does not claim to be a server for production. So a ✗ in its row is no defect of the
library: it shows what you have to add yourself.

- ✓: the program keeps the rule.
- ✗: it does not. The link leads to the pitfall that fails in the same way, or to what was seen.
- ○: it does not, and its documentation says so or does not claim it. The link leads to the note.
- ?: not judged, because the rule builds on another one that the program does not keep.
- ·: no case of the rule applies.
- …: not all cases ran.

";

/// How a program does with a line of the contract.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Kept,
    Fails,
    NotClaimed,
    Follows,
    DoesNotApply,
    NotRun,
}

/// A case that fails.
struct Failure<'a> {
    line: &'a str,
    case: &'a str,
    seen: &'a str,
    like: Option<&'a str>,
    note: Option<&'static Note>,
}

/// The whole page.
pub fn write(outcomes: &[(&'static Program, Outcome)]) -> String {
    let mut page = BEGINNING.to_owned();
    let lines: Vec<_> = cases::ECHO.iter().map(|(line, _)| *line).collect();
    page += "| program |";
    for line in &lines {
        let _ = write!(page, " {} |", line.replace('_', "-"));
    }
    page += "\n|---|";
    page += &"---|".repeat(lines.len());
    page += "\n";
    for (program, outcome) in outcomes {
        let Outcome::Ran(report, _) = outcome else { continue };
        let _ = write!(page, "| [{0}](#{0}) |", program.name);
        for line in &lines {
            let _ = write!(page, " {} |", cell(program, report, line));
        }
        page += "\n";
    }
    page += "\nThe rule `log` is about the output of a server: whether it serves while nobody reads it.\n";
    for (program, outcome) in outcomes {
        if let Outcome::Ran(report, version) = outcome {
            section(&mut page, program, report, version);
        }
    }
    let left_out: Vec<_> = outcomes
        .iter()
        .filter_map(|(program, outcome)| match outcome {
            Outcome::LeftOut(reason) => Some((program, reason)),
            Outcome::Ran(..) => None,
        })
        .collect();
    if !left_out.is_empty() {
        page += "\n## Left out\n\n";
    }
    for (program, reason) in left_out {
        let reason = reason.lines().next().unwrap_or_default();
        let _ = writeln!(page, "- {}: {reason}", program.name);
    }
    page
}

/// The cases that fail by themselves, and not because of another line.
pub fn failures(report: &Value) -> Vec<String> {
    let name = |failure: Failure| format!("{}::{}", failure.line, failure.case);
    all_failures(report).map(name).collect()
}

/// The verdict of each case.
pub fn verdicts(report: &Value) -> impl Iterator<Item = (String, String)> {
    list(&report["lines"]).iter().flat_map(|line| {
        list(&line["cases"]).iter().map(move |case| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (format!("{}::{}", text(&line["name"]), text(&case["name"])), text(&case["verdict"]))
        })
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn all_failures(report: &Value) -> impl Iterator<Item = Failure<'_>> {
    list(&report["lines"]).iter().flat_map(|line| {
        let failed = list(&line["cases"]).iter().filter(|case| case["verdict"] == "NOT KEPT");
        failed.map(|case| Failure {
            line: line["name"].as_str().unwrap_or_default(),
            case: case["name"].as_str().unwrap_or_default(),
            seen: case["seen"].as_str().unwrap_or_default(),
            like: list(&case["fails_like"]).first().and_then(Value::as_str),
            note: None,
        })
    })
}

/// The same, with the notes of the program.
fn failures_of<'a>(program: &'static Program, report: &'a Value) -> Vec<Failure<'a>> {
    let with_note = |failure: Failure<'a>| {
        let name = format!("{}::{}", failure.line, failure.case);
        Failure { note: program.note(&name), ..failure }
    };
    all_failures(report).map(with_note).collect()
}

fn cell(program: &'static Program, report: &Value, line: &str) -> String {
    let failures = failures_of(program, report);
    let failures: Vec<_> = failures.iter().filter(|failure| failure.line == line).collect();
    let verdict = list(&report["lines"]).iter().find(|it| it["name"] == line);
    let verdict = verdict.and_then(|it| it["verdict"].as_str()).unwrap_or("-");
    let own = failures.iter().find(|failure| failure.note.is_none());
    let kind = match verdict {
        "kept" => Cell::Kept,
        "NOT KEPT" if own.is_none() => Cell::NotClaimed,
        "NOT KEPT" => Cell::Fails,
        "not judged" => Cell::Follows,
        "no time" => Cell::NotRun,
        _ => Cell::DoesNotApply,
    };
    match kind {
        Cell::Kept => "✓".to_owned(),
        Cell::Follows => "?".to_owned(),
        Cell::DoesNotApply => "·".to_owned(),
        Cell::NotRun => "…".to_owned(),
        Cell::NotClaimed => format!("[○](#{})", program.name),
        Cell::Fails => match own.and_then(|failure| failure.like) {
            Some(pitfall) => format!("[✗](../pitfalls/src/bin/{pitfall}.rs)"),
            None => format!("[✗](#{})", program.name),
        },
    }
}

/// What a program is, and what was seen.
fn section(page: &mut String, program: &'static Program, report: &Value, version: &str) {
    let _ = writeln!(page, "\n## {}\n", program.name);
    let what = match program.file {
        Some(file) => format!("[`{file}`](../contract/examples/{file}): {}", program.what),
        None => program.what.to_owned(),
    };
    let _ = writeln!(page, "{what}.\n\nVersion: {version}.");
    let words = [program.options, &["--"], program.command].concat();
    let words: Vec<_> = words.iter().map(|it| if it.is_empty() { "''" } else { it }).collect();
    let command = words.join(" ");
    let command =
        command.replace("EXAMPLES", "contract/examples").replace("OUT", "target/scoreboard");
    let _ = writeln!(page, "Run as: `contract {command}`.");
    let failures = failures_of(program, report);
    if failures.is_empty() {
        page.push_str("It keeps every rule that applies.\n");
        return;
    }
    page.push('\n');
    for failure in failures {
        let mark = if failure.note.is_some() { "○" } else { "✗" };
        let seen = quote(failure.seen);
        let _ = write!(page, "- {mark} `{}::{}`: {seen}", failure.line, failure.case);
        if let Some(note) = failure.note {
            let _ = write!(page, " {}", note.text);
        } else if let Some(pitfall) = failure.like.and_then(pitfalls::find) {
            let name = pitfall.entry.name;
            let link = format!("[`{name}`](../pitfalls/src/bin/{name}.rs)");
            let _ = write!(page, " It fails like {link}: {}.", mistake(name).trim_end_matches('.'));
        }
        page.push('\n');
    }
}

/// The first line of what was seen, as code.
fn quote(seen: &str) -> String {
    const LONGEST: usize = 160;
    let line = seen.lines().next().unwrap_or_default().replace('`', "'");
    let short: String = line.chars().take(LONGEST).collect();
    let dots = if short.len() < line.len() { "…" } else { "" };
    format!("`{short}{dots}`.")
}

/// The mistake of a pitfall, from the header of its file.
fn mistake(name: &str) -> String {
    let file = format!("{}/../pitfalls/src/bin/{name}.rs", env!("CARGO_MANIFEST_DIR"));
    let header = fs::read_to_string(file).unwrap_or_default();
    let lines = header.lines().map_while(|line| line.strip_prefix("//!"));
    let lines = lines.map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("Mistake: ").to_owned()
}
