//! Builds the servers, once, so that `cargo test` needs nothing built beforehand.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

static BINARIES: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();

/// Builds all binaries of `packages`, in the profile that this suite was built in.
///
/// Cargo shows its progress and its errors on stderr.
pub fn build(packages: &[&str]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics"]);
    // Cargo runs a test with its package's directory as the working directory.
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = cargo.stdout.take().context("cargo has no stdout")?;

    let mut binaries = HashMap::new();
    for line in BufReader::new(stdout).lines() {
        let message: Value = serde_json::from_str(&line?)?;
        if let (Some(name), Some(path)) =
            (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            binaries.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    let status = cargo.wait()?;
    ensure!(status.success(), "the servers do not build: {command:?} ended with {status}");
    BINARIES.set(binaries).map_err(|_| anyhow!("the servers are built twice"))
}

/// Where the binary with this name is.
pub fn path(name: &str) -> Result<&'static Path> {
    let binaries = BINARIES.get().context("the servers have not been built")?;
    let path = binaries.get(name).with_context(|| format!("there is no binary {name:?}"))?;
    Ok(path)
}
