//! `cargo test FILTER` does not run here, because it would run this trial too. But the filter must
//! select at least one test.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use integration_tests::workspace;

use crate::{KINDS, session};

/// The names of the tests, by the options that select the targets.
static LISTINGS: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);

/// Fails if `cargo test` with these arguments runs no test.
pub fn selects_a_test(arguments: &[&str]) -> Result<()> {
    // The profile does not change the names. All other options take a value.
    let mut options = Vec::new();
    let mut rest = arguments.iter().filter(|word| **word != "--release");
    let mut filter = "";
    while let Some(&word) = rest.next() {
        if word.starts_with('-') {
            options.extend([word, rest.next().context("an option without its value")?]);
        } else {
            filter = word;
        }
    }
    let listing = listing(&options)?;
    // Some trials of this suite have the command in their own name.
    let is_ours = |line: &str| KINDS.iter().any(|kind| line.starts_with(&format!("{kind}::")));
    let is_selected = |line: &str| line.contains(filter) && !is_ours(line);
    ensure!(listing.lines().any(is_selected), "no test has {filter:?} in its name");
    Ok(())
}

fn listing(options: &[&str]) -> Result<String> {
    let mut listings = LISTINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let listings = listings.get_or_insert_default();
    if let Some(listing) = listings.get(&options.join(" ")) {
        return Ok(listing.clone());
    }
    let _alone = session::alone();
    // Without the documentation tests: there are none, and rustdoc takes long to find that out.
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
