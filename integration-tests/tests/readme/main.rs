//! What the documentation tells a reader holds: `KIND::PLACE`.
//!
//! - `links`: a link leads to a file, a heading, a line that is there; `functions`: an index of
//!   functions, to a file that has them.
//! - `commands`: each command of the README does what the README says, run as a reader would.
//! - `headers`: so do the commands and the transcript in the header of each server.
//! - `references`: files and programs that comments name are there.
//! - `servers`: the tables name all servers, and no others.
//! - `translation`: the README in Chinese says the same, as far as a program can tell.
//!
//! What cannot be run literally is run as nearly as possible, and `commands` says so. No other
//! machine is asked for anything.

mod commands;
mod conversation;
mod headers;
mod links;
mod listing;
mod references;
mod servers;
mod session;
mod tools;
mod translation;

use std::env;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use integration_tests::{Page, Workspace, workspace};
use libtest_mimic::{Arguments, Completion, Trial};

/// What the names here begin with.
const KINDS: [&str; 7] =
    ["commands", "functions", "headers", "links", "references", "servers", "translation"];

const README: &str = "README.md";
const CHINESE: &str = "README.zh-CN.md";
const PAGES: [&str; 4] = [README, CHINESE, "docs/contract.md", "docs/benchmarks/README.md"];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Nearly all of them wait for something.
    arguments.test_threads.get_or_insert(6);
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>> {
    // Where a reader is, and what all paths here start from.
    env::set_current_dir(workspace::root())?;
    let workspace = Arc::new(Workspace::read()?);
    let readme = Page::read(README)?;
    let mut trials = links::trials();
    trials.extend(commands::trials(&readme, &workspace)?);
    trials.extend(headers::trials(&workspace));
    trials.extend(references::trials(&workspace)?);
    trials.extend(servers::trials(&workspace));
    trials.extend(translation::trials());
    Ok(trials)
}

fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref() {
            Some(Lack(what)) => Ok(Completion::ignored_with(what)),
            None => Err(format!("{error:#}").into()),
        },
    })
}

/// What a test needs and this machine does not have: the error of one that cannot be run.
#[derive(Debug)]
struct Lack(&'static str);

impl std::error::Error for Lack {}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Fails with all of `wrong`, if there is any.
fn none(wrong: impl IntoIterator<Item = String>) -> Result<()> {
    let wrong: Vec<_> = wrong.into_iter().collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
