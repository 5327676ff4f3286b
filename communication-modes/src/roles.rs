//! The command line of a program with several roles.

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The error of a command line that is wrong.
#[derive(Debug)]
pub struct Misuse;

impl std::error::Error for Misuse {}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unexpected command line; try --help")
    }
}

/// Like [`common::run`], for a program with several roles. `program` gets all arguments. If they do
/// not fit `usage`, it returns the error [`Misuse`], and the exit status is 2.
pub fn run_roles(usage: &str, program: impl FnOnce(&[&str]) -> anyhow::Result<()>) -> ExitCode {
    let given: Vec<_> = env::args_os().skip(1).collect();
    let given: Vec<_> = given.iter().map(|arg| arg.to_string_lossy()).collect();
    let given: Vec<&str> = given.iter().map(AsRef::as_ref).collect();
    // Not behind the role: that can be text to send.
    if matches!(given[..], ["-h" | "--help", ..] | [_, "-h" | "--help"]) {
        let _ = io::stdout().write_all(usage.as_bytes());
        return ExitCode::SUCCESS;
    }

    common::prepare();
    match program(&given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => common::fail(if error.is::<Misuse>() { 2 } else { 1 }, &format!("{error:#}")),
    }
}
