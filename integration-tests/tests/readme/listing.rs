//! `cargo test FILTER` does not run here, because it would run this trial too. But its options and
//! its filter must select at least one test.
//!
//! The tests are listed once, for the whole workspace. Cargo would build everything again for
//! `--package`, with the features of that package only, and for `--release`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::workspace;
use serde_json::Value;

use crate::{KINDS, session};

/// The number of inputs for a property, which a command may raise for a run of several minutes.
const INPUTS: &str = "PROPTEST_CASES";
/// Enough inputs to show that the command works.
const FEW_INPUTS: &str = "10";

/// A program of tests.
#[derive(Clone)]
struct Tests {
    package: String,
    /// The name of the target, as in `--test NAME`.
    target: String,
    executable: PathBuf,
    names: Vec<String>,
}

static LISTING: Mutex<Option<Vec<Tests>>> = Mutex::new(None);

/// Fails if `cargo test` with these arguments runs no test. If `variables` contain the number of
/// inputs, the tests run, with fewer inputs.
pub fn selects_a_test(variables: &str, arguments: &[&str]) -> Result<()> {
    let (mut packages, mut targets, mut filter) = (Vec::new(), Vec::new(), "");
    let mut rest = arguments.iter();
    while let Some(&word) = rest.next() {
        let mut value = || rest.next().copied().context("an option without its value");
        match word {
            "-p" => packages.push(value()?),
            "--test" => targets.push(value()?),
            "--release" => {} // the names are the same
            _ if word.starts_with('-') => {
                bail!("what does {word} select? Add it to tests/readme/listing.rs")
            }
            _ => filter = word,
        }
    }
    let is_one_of = |all: &[&str], name: &str| all.is_empty() || all.contains(&name);
    let mut selected = Vec::new();
    for tests in listing()? {
        if is_one_of(&packages, &tests.package) && is_one_of(&targets, &tests.target) {
            let is_selected = |name: &String| name.contains(filter) && !is_ours(name);
            if tests.names.iter().any(is_selected) {
                selected.push(tests);
            }
        }
    }
    ensure!(!selected.is_empty(), "no test has {filter:?} in its name");
    for package in packages {
        let found = selected.iter().any(|tests| tests.package == package);
        ensure!(found, "{package} has no test with {filter:?} in its name");
    }
    if variables.contains(INPUTS) {
        selected.iter().try_for_each(|tests| tests.run_with_few_inputs(filter))?;
    }
    Ok(())
}

/// Some trials of this suite have the command in their own name.
fn is_ours(name: &str) -> bool {
    KINDS.iter().any(|kind| name.starts_with(&format!("{kind}::")))
}

fn listing() -> Result<Vec<Tests>> {
    let mut listing = LISTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(all) = listing.as_ref() {
        return Ok(all.clone());
    }
    let _alone = session::alone();
    let mut command = Command::new(workspace::cargo());
    let output = command
        .args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if message["profile"]["test"] != true {
            continue;
        }
        let Some(executable) = message["executable"].as_str() else { continue };
        let manifest = text(&message["manifest_path"]);
        let folder = Path::new(&manifest).parent().context("a manifest without a folder")?;
        let package = folder.file_name().context("a package without a folder")?;
        all.push(Tests {
            package: package.to_string_lossy().into_owned(),
            target: text(&message["target"]["name"]),
            executable: executable.into(),
            names: names(executable, folder)?,
        });
    }
    ensure!(!all.is_empty(), "cargo names no program of tests");
    *listing = Some(all.clone());
    Ok(all)
}

fn names(executable: &str, folder: &Path) -> Result<Vec<String>> {
    let output = Command::new(executable).arg("--list").current_dir(folder).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout)?;
    let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

impl Tests {
    fn run_with_few_inputs(&self, filter: &str) -> Result<()> {
        let mut command = Command::new(&self.executable);
        let output = command.arg(filter).env(INPUTS, FEW_INPUTS).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{text}");
        Ok(())
    }
}
