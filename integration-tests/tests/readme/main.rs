//! Whether the documentation is true: `KIND::PLACE`.
//!
//! - `pages`: each page has the shape that all pages have, and no table stands twice.
//! - `links`: each link leads to a file, heading, or line that exists. `functions`: in an index of
//!   functions, each file defines the functions that its row names.
//! - `commands`: each command does what the page says, run as a reader would run it.
//! - `headers`: the same for the command and the transcript in the header of each server.
//! - `references`: the files and programs that comments name exist.
//! - `servers`: the tables name all servers and pitfalls, and nothing else.
//! - `translation`: a page and its Chinese edition agree, as far as a program can tell.
//!
//! Commands that cannot run literally run as literally as possible; see `commands`. No test
//! connects to another machine.

mod commands;
mod conversation;
mod headers;
mod links;
mod listing;
mod pages;
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
use integration_tests::{Workspace, sample, workspace};
use libtest_mimic::{Arguments, Completion, Trial};

/// The first parts of the names of all trials here.
const KINDS: [&str; 8] =
    ["commands", "functions", "headers", "links", "pages", "references", "servers", "translation"];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Nearly all trials wait for other programs most of the time.
    arguments.test_threads.get_or_insert(6);
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, sample::apply(trials)).exit_code(),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>> {
    // Readers run the commands here, and all paths in this suite are relative to it.
    env::set_current_dir(workspace::root())?;
    let workspace = Arc::new(Workspace::read()?);
    let mut trials = pages::trials()?;
    trials.extend(links::trials()?);
    trials.extend(commands::trials(&workspace)?);
    trials.extend(headers::trials(&workspace));
    trials.extend(references::trials(&workspace)?);
    trials.extend(servers::trials(&workspace)?);
    trials.extend(translation::trials()?);
    Ok(trials)
}

fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref() {
            Some(Unavailable(what)) => Ok(Completion::ignored_with(what)),
            None => Err(format!("{error:#}").into()),
        },
    })
}

/// The error of a trial that needs something that this machine does not have.
#[derive(Debug)]
struct Unavailable(&'static str);

impl std::error::Error for Unavailable {}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Fails with all messages of `wrong`, if there are any.
fn expect_none(wrong: impl IntoIterator<Item = String>) -> Result<()> {
    let wrong: Vec<_> = wrong.into_iter().collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
