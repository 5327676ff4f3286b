//! The report: a table, each failure in detail, JSON and `JUnit`.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use contract::pitfalls::{self, Pitfall};
use contract::target::Origin;
use contract::{Target, cases};
use quick_junit::{NonSuccessKind, Report as JUnit, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use crate::run::{Outcome, Verdict};

/// The results of a run.
pub struct Report<'a> {
    target: &'a Target,
    lines: Vec<Line>,
}

/// A line of the contract, with what became of its cases.
struct Line {
    name: &'static str,
    outcomes: Vec<Outcome>,
}

/// What the report says about a line, or about a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Kept,
    NotKept,
    /// It fails, but so does a line that it builds on.
    Follows,
    Skipped,
    /// There was no time for it.
    OutOfTime,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::NotKept => "NOT KEPT",
            Self::Follows => "not judged",
            Self::Skipped => "-",
            Self::OutOfTime => "no time",
        }
    }
}

/// The columns of the table, if stdout is not a terminal.
const WIDTH: u16 = 110;

impl<'a> Report<'a> {
    /// Sorts the outcomes by line.
    pub fn new(target: &'a Target, outcomes: Vec<Outcome>) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        for outcome in outcomes {
            let name = outcome.planned.line;
            match lines.last_mut().filter(|line| line.name == name) {
                Some(line) => line.outcomes.push(outcome),
                None => lines.push(Line { name, outcomes: vec![outcome] }),
            }
        }
        Self { target, lines }
    }

    /// Whether no case fails.
    pub fn is_kept(&self) -> bool {
        self.lines.iter().all(|line| line.failures().next().is_none())
    }

    /// How many cases did not run, or not to their end, because the time was over.
    pub fn out_of_time(&self) -> usize {
        let all = self.lines.iter().flat_map(|line| &line.outcomes);
        all.filter(|outcome| outcome.verdict == Verdict::OutOfTime).count()
    }

    /// Prints the table, and then each failure in detail.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if !io::stdout().is_terminal() {
            table.set_width(WIDTH);
        }
        table.set_header(["line", "cases", "verdict", "expected, and what was seen", "time"]);
        for line in &self.lines {
            let mark = self.mark_of_line(line);
            let time: Duration = line.outcomes.iter().map(|outcome| outcome.time).sum();
            table.add_row([
                line.name.replace('_', "-"),
                line.count(),
                mark.text().to_owned(),
                Self::summary(line, mark),
                format!("{:.1} s", time.as_secs_f64()),
            ]);
        }
        println!("{table}");
        for line in &self.lines {
            for outcome in line.failures() {
                self.print_failure(outcome);
            }
        }
        self.print_skipped();
        let failed = self.lines.iter().flat_map(Line::failures).count();
        let all = self.lines.iter().flat_map(|line| &line.outcomes);
        let kept = all.filter(|outcome| outcome.verdict == Verdict::Kept).count();
        println!("\n{}: {kept} cases kept, {failed} not kept", self.target.name);
    }

    fn summary(line: &Line, mark: Mark) -> String {
        let promise = cases::promise(line.name);
        let mut failures = line.failures().map(|outcome| outcome.planned.case.name);
        match (mark, failures.next()) {
            (Mark::Skipped, _) => line.skipped().first().map_or("", |it| it).to_owned(),
            (_, None) => promise.to_owned(),
            (_, Some(first)) => {
                let mut names = first.to_owned();
                for name in failures {
                    names += ", ";
                    names += name;
                }
                format!("{promise}. Fails: {names}")
            }
        }
    }

    fn mark_of_line(&self, line: &Line) -> Mark {
        let mut marks: Vec<_> = line.outcomes.iter().map(|it| self.mark(it)).collect();
        marks.sort_by_key(|mark| match mark {
            Mark::NotKept => 0,
            Mark::Follows => 1,
            Mark::OutOfTime => 2,
            Mark::Kept => 3,
            Mark::Skipped => 4,
        });
        marks.first().copied().unwrap_or(Mark::Skipped)
    }

    fn mark(&self, outcome: &Outcome) -> Mark {
        match outcome.verdict {
            Verdict::Kept => Mark::Kept,
            Verdict::Skipped(_) => Mark::Skipped,
            Verdict::OutOfTime => Mark::OutOfTime,
            Verdict::NotKept(_) if self.cause_elsewhere(outcome).is_some() => Mark::Follows,
            Verdict::NotKept(_) => Mark::NotKept,
        }
    }

    /// The line that the case builds on and that is not kept.
    fn cause_elsewhere(&self, outcome: &Outcome) -> Option<&'static str> {
        if outcome.planned.case.independent {
            return None;
        }
        let builds_on = cases::builds_on(outcome.planned.line).iter().copied();
        builds_on.into_iter().find(|name| {
            let mut line = self.lines.iter().filter(|line| line.name == *name);
            line.any(|line| line.failures().any(|failure| !failure.planned.case.leaf))
        })
    }

    fn print_failure(&self, outcome: &Outcome) {
        let Verdict::NotKept(seen) = &outcome.verdict else { return };
        let case = outcome.planned.case;
        let name = format!("{}::{}", outcome.planned.line, case.name);
        match self.cause_elsewhere(outcome) {
            None => println!("\nNOT KEPT {name}"),
            Some(line) => println!("\nNOT JUDGED {name}: it builds on {line}, which is not kept"),
        }
        println!("  expected  {}", case.promise);
        println!("  seen      {}", seen.replace('\n', "\n            "));
        if self.cause_elsewhere(outcome).is_none() {
            for pitfall in pitfalls::similar(outcome.planned.line, case.name, seen) {
                println!("  cause?    {}", describe(pitfall));
            }
        }
        println!("  repeat    {}", Self::repeat(&name));
    }

    /// What does not apply, with the reason, each reason once.
    fn print_skipped(&self) {
        let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
        for outcome in self.lines.iter().flat_map(|line| &line.outcomes) {
            let reason = match outcome.verdict {
                Verdict::Skipped(reason) => reason,
                Verdict::OutOfTime => "the time was over; --time-limit gives it more",
                _ => continue,
            };
            let name = format!("{}::{}", outcome.planned.line, outcome.planned.case.name);
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
        if !reasons.is_empty() {
            println!("\nLeft out:");
        }
        for (reason, names) in reasons {
            println!("- {reason}: {}", names.join(", "));
        }
    }

    /// The command that repeats this case alone.
    fn repeat(name: &str) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "contract".to_owned());
        let mut words = vec![program, "--only".to_owned(), name.to_owned(), "--trace".to_owned()];
        // The options that describe the server, as they were given.
        let mut given = std::env::args().skip(1).peekable();
        while let Some(word) = given.next() {
            if word == "--" {
                words.push(word);
                words.extend(given);
                break;
            }
            let (option, has_value) = match word.split_once('=') {
                Some((option, _)) => (option.to_owned(), false),
                None => (word.clone(), true),
            };
            match option.as_str() {
                "--quick" | "--trace" => {}
                "--only" | "--json" | "--junit" | "--jobs" => {
                    if has_value {
                        given.next();
                    }
                }
                _ => words.push(word),
            }
        }
        words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
    }

    /// Writes everything that the report contains as JSON.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let lines: Vec<_> = self.lines.iter().map(|line| self.json_of_line(line)).collect();
        let document = json!({
            "server": self.target.name,
            "command": self.command(),
            "kept": self.is_kept(),
            "lines": lines,
        });
        fs::write(path, serde_json::to_string_pretty(&document)? + "\n")?;
        Ok(())
    }

    fn command(&self) -> String {
        match &self.target.origin {
            Origin::Command(command) => {
                let words = command.words().iter().map(|word| quote(&word.to_string_lossy()));
                words.collect::<Vec<_>>().join(" ")
            }
            Origin::Running(address) => format!("--connect {address}"),
            Origin::Workspace(entry, _) => entry.name.to_owned(),
        }
    }

    fn json_of_line(&self, line: &Line) -> Value {
        let cases: Vec<_> = line
            .outcomes
            .iter()
            .map(|outcome| {
                let (seen, reason) = match &outcome.verdict {
                    Verdict::NotKept(seen) => (Some(seen.as_str()), None),
                    Verdict::Skipped(reason) => (None, Some(*reason)),
                    Verdict::OutOfTime => (None, Some("the time was over")),
                    Verdict::Kept => (None, None),
                };
                let case = outcome.planned.case;
                let causes = pitfalls::similar(line.name, case.name, seen.unwrap_or_default());
                let causes: Vec<_> = causes.iter().map(|pitfall| pitfall.entry.name).collect();
                json!({
                    "name": case.name,
                    "verdict": self.mark(outcome).text(),
                    "expected": case.promise,
                    "seen": seen,
                    "left_out_because": reason,
                    "builds_on_line_not_kept": self.cause_elsewhere(outcome),
                    "fails_like": if seen.is_some() { causes } else { Vec::new() },
                    "seconds": outcome.time.as_secs_f64(),
                })
            })
            .collect();
        json!({
            "name": line.name,
            "verdict": self.mark_of_line(line).text(),
            "expected": cases::promise(line.name),
            "cases": cases,
        })
    }

    /// Writes the results as `JUnit` XML, one test suite per line of the contract.
    pub fn write_junit(&self, path: &Path) -> Result<()> {
        let mut report = JUnit::new(format!("contract: {}", self.target.name));
        for line in &self.lines {
            let mut suite = TestSuite::new(line.name);
            for outcome in &line.outcomes {
                let status = match &outcome.verdict {
                    Verdict::Kept => TestCaseStatus::success(),
                    Verdict::NotKept(seen) => {
                        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                        status.set_message(outcome.planned.case.promise);
                        status.set_description(seen.clone());
                        status
                    }
                    Verdict::OutOfTime => {
                        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
                        status.set_message("the time was over");
                        status
                    }
                    Verdict::Skipped(reason) => {
                        let mut status = TestCaseStatus::skipped();
                        status.set_message(*reason);
                        status
                    }
                };
                let mut case = TestCase::new(outcome.planned.case.name, status);
                case.set_classname(line.name).set_time(outcome.time);
                suite.add_test_case(case);
            }
            report.add_test_suite(suite);
        }
        report.serialize(File::create(path)?)?;
        Ok(())
    }
}

impl Line {
    fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::NotKept(_)))
    }

    fn skipped(&self) -> Vec<&'static str> {
        let reason = |outcome: &Outcome| match outcome.verdict {
            Verdict::Skipped(reason) => Some(reason),
            _ => None,
        };
        self.outcomes.iter().filter_map(reason).collect()
    }

    /// `3 of 4`: of those that ran.
    fn count(&self) -> String {
        let out_of_time = self.outcomes.iter().filter(|it| it.verdict == Verdict::OutOfTime);
        let ran = self.outcomes.len() - self.skipped().len() - out_of_time.count();
        if ran == 0 {
            "-".to_owned()
        } else {
            format!("{} of {ran}", ran - self.failures().count())
        }
    }
}

/// The name of a pitfall, the mistake in one sentence, and where to read more.
fn describe(pitfall: &Pitfall) -> String {
    let name = pitfall.entry.name;
    let file = format!("pitfalls/src/bin/{name}.rs");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&file);
    let header = fs::read_to_string(source).unwrap_or_default();
    let mut mistake = Vec::new();
    for line in header.lines().map_while(|line| line.strip_prefix("//!")) {
        if line.trim().is_empty() {
            break;
        }
        mistake.push(line.trim().trim_start_matches("Mistake: "));
    }
    format!(
        "fails like `{name}`: {}\n            see {file} and docs/pitfalls.md",
        mistake.join(" ")
    )
}

/// A word as a shell needs it.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:{},=@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints all cases.
pub fn list() {
    for (line, cases) in cases::ECHO {
        println!("{line}: {}", cases::promise(line));
        for case in cases.iter().filter(|case| !case.is_about_workspace()) {
            let quick = if case.quick { " (--quick)" } else { "" };
            println!("  {line}::{}{quick}\n      {}", case.name, case.promise);
        }
    }
}
