//! `cargo test FILTER`: not run, for it runs this test too; but it must run something.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use integration_tests::workspace;

use crate::{KINDS, session};

/// By the arguments that say which targets.
static LISTINGS: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);

/// Whether there are tests that `cargo test` runs with these arguments.
pub fn has(arguments: &[&str]) -> Result<()> {
    // The options that may come before the filter all take a value.
    let mut options = Vec::new();
    let mut rest = arguments.iter();
    let mut filter = "";
    while let Some(&word) = rest.next() {
        if word.starts_with('-') {
            options.extend([word, rest.next().context("an option without its value")?]);
        } else {
            filter = word;
        }
    }
    let listing = listing(&options)?;
    // Of those here some have the command in their own name.
    let ours = |line: &str| KINDS.iter().any(|kind| line.starts_with(&format!("{kind}::")));
    let named = |line: &str| line.contains(filter) && !ours(line);
    ensure!(listing.lines().any(named), "no test has {filter:?} in its name");
    Ok(())
}

fn listing(options: &[&str]) -> Result<String> {
    let mut listings = LISTINGS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let listings = listings.get_or_insert_default();
    if let Some(listing) = listings.get(&options.join(" ")) {
        return Ok(listing.clone());
    }
    let _alone = session::alone();
    // Not the examples in the documentation: there are none, and rustdoc takes its time to see.
    let mut command = Command::new(workspace::cargo());
    let output = command
        .args(["test", "--quiet", "--tests"])
        .args(options)
        .args(["--", "--list"])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout)?;
    let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
    let listing = names.collect::<Vec<_>>().join("\n");
    listings.insert(options.join(" "), listing.clone());
    Ok(listing)
}
