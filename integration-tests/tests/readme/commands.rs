//! Each command of README.md and `docs`, run as a reader would run it. The Chinese editions have
//! the same commands (see [`crate::translation`]).
//!
//! These commands do not run literally:
//! - `cargo run -p PACKAGE --bin NAME` runs once for each server of the page's tables.
//! - `nc` is a client of this suite. A server listens on another port if its own port is in use.
//! - `cargo test` would run this suite too: see [`listing`].
//! - `bench` and `trace` take minutes, or overwrite committed files: see [`tools`].

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use contract::Launch;
use integration_tests::{Binary, Page, Workspace};
use libtest_mimic::Trial;
use regex::Regex;

use crate::session::{Run, Step};
use crate::{Unavailable, conversation, listing, pages, servers, session, tools, trial};

/// Whether code within text is a command that can run. `nc -N`, without an address, is not.
pub fn is_one(code: &str) -> bool {
    let code = without_variables(code);
    let has_arguments = code.split(' ').count() > 2 || !code.starts_with("nc ");
    has_arguments && ["cargo ", "diff ", "nc ", "strace "].iter().any(|it| code.starts_with(it))
}

fn without_variables(command: &str) -> &str {
    split_variable(command).1
}

/// The variable that a command sets, if any, and the rest of the command.
fn split_variable(command: &str) -> (&str, &str) {
    let is_variable = |word: &str| word.contains('=') && word.starts_with(char::is_uppercase);
    match command.split_once(' ') {
        Some((word, rest)) if is_variable(word) => (word, rest),
        _ => ("", command),
    }
}

pub fn trials(workspace: &Arc<Workspace>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for page in pages::english()? {
        trials.extend(trials_of(&Page::read(page)?, workspace)?);
    }
    Ok(trials)
}

fn trials_of(page: &Page, workspace: &Arc<Workspace>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    // The server that the reader started last. A following `nc` connects to it.
    let mut server = None;
    for (line, step) in steps(page)? {
        for step in fill_in(&step, page, workspace) {
            let mut steps = vec![step.clone()];
            if step.command.starts_with("nc ") {
                steps.splice(0..0, server.clone());
            } else if is_server(&step, workspace) {
                server = Some(Step::new(step.command.clone()));
            }
            let workspace = Arc::clone(workspace);
            // The filter in capitals, or the command would select this trial too.
            let command = match step.command.split_once("cargo test ") {
                Some((before, filter)) => format!("{before}cargo test {}", filter.to_uppercase()),
                None => step.command,
            };
            let name = format!("commands::{}::{command}", page.at(line));
            trials.push(trial(name, move || holds(&steps, &workspace)));
        }
    }
    Ok(trials)
}

/// All commands of a page, each with its line.
fn steps(page: &Page) -> Result<Vec<(usize, Step)>> {
    let comment = Regex::new(r"(^|\s+)#.*$")?;
    let mut steps = Vec::new();
    for code in &page.codes {
        let these = match code.language.as_deref() {
            None if is_one(&code.text) => vec![Step::new(&code.text)],
            Some("sh" | "bash" | "shell") => {
                let text = code.text.replace("\\\n", "");
                let lines = text.lines().map(|line| comment.replace(line, "").into_owned());
                lines.filter(|line| !line.is_empty()).map(Step::new).collect()
            }
            Some("console") => Step::of_block(&code.text),
            Some("text") => {
                // A session with a chat server begins with the greeting of the server.
                let lines: Vec<_> = code.text.lines().map(str::to_owned).collect();
                let is_chat = conversation::is_chat(&lines);
                let nc = Step { command: "nc 127.0.0.1 7001".to_owned(), lines };
                is_chat.then_some(nc).into_iter().collect()
            }
            _ => Vec::new(),
        };
        steps.extend(these.into_iter().map(|step| (code.line, step)));
    }
    Ok(steps)
}

/// The step once for each server of the tables, in place of `PACKAGE` and `NAME`.
fn fill_in(step: &Step, page: &Page, workspace: &Workspace) -> Vec<Step> {
    if !step.command.contains("PACKAGE") && !step.command.contains("NAME") {
        return vec![step.clone()];
    }
    let fill = |Binary { package, name, .. }: &Binary| {
        Step::new(step.command.replace("PACKAGE", package).replace("NAME", name))
    };
    servers::named(page, workspace).into_iter().map(fill).collect()
}

fn is_server(step: &Step, workspace: &Workspace) -> bool {
    let run = Run::parse(&step.command, workspace);
    run.is_ok_and(|run| run.is_some_and(|run| workspace.servers().any(|it| *it == run.binary)))
}

fn holds(steps: &[Step], workspace: &Workspace) -> Result<()> {
    let command = &steps.last().context("no command")?.command;
    let (variable, rest) = split_variable(command);
    match rest.split(' ').collect::<Vec<_>>().as_slice() {
        ["cargo", "run", ..] => match Run::parse(command, workspace)? {
            Some(run)
                if ["bench", "contract", "take", "trace"]
                    .contains(&run.binary.package.as_str()) =>
            {
                tools::works(&run, workspace)
            }
            Some(run) if run.binary.package == "pitfalls" => {
                bail!("what should a pitfall show? Add it to tests/readme/commands.rs")
            }
            _ => session::run(steps, workspace),
        },
        ["nc", ..] => session::run(steps, workspace),
        ["cargo", "test", arguments @ ..] => listing::selects_a_test(variable, arguments),
        ["diff", _, _] => differ(command),
        _ => bail!("how does this run? Add it to tests/readme/commands.rs"),
    }
}

fn differ(command: &str) -> Result<()> {
    if Command::new("diff").arg("--version").output().is_err() {
        bail!(Unavailable("diff is not installed"));
    }
    let output = Launch::shell("diff", command).output()?;
    // 0 if the files are the same, 2 if one does not exist.
    ensure!(output.status.code() == Some(1), "{}: {}", output.status, output.stderr);
    Ok(())
}
