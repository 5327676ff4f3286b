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

/// Builds the binaries with these names, in the profile that this suite was built in.
///
/// They get the features of the whole workspace, so Cargo builds nothing that `cargo test` has built
/// before. (With `--package`, Cargo would build each dependency again with fewer features.)
///
/// Cargo shows its progress and its errors on stderr.
///
/// If the environment variable `CONTRACT_BINARIES` is set, nothing is built, and the binaries are
/// the files of the folder that it names. `.ci/checkers` runs the cases over instrumented servers
/// this way.
pub fn build<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let binaries = match env::var_os("CONTRACT_BINARIES") {
        Some(folder) => files(Path::new(&folder)).context("CONTRACT_BINARIES")?,
        None => cargo_build(names)?,
    };
    BINARIES.set(binaries).map_err(|_| anyhow!("the servers are built twice"))
}

/// The files of this folder, by their names.
fn files(folder: &Path) -> Result<HashMap<String, PathBuf>> {
    // Absolute, because Cargo runs a test in its package's directory.
    ensure!(folder.is_absolute(), "{} is not an absolute path", folder.display());
    let mut files = HashMap::new();
    for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    Ok(files)
}

/// Builds the binaries with these names, as [`build`] does. Returns their paths.
pub fn cargo_build<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<HashMap<String, PathBuf>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--message-format=json-render-diagnostics"]);
    // Cargo runs a test with its package's directory as the working directory.
    command.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    command.args(names.into_iter().flat_map(|name| ["--bin", name]));
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
    Ok(binaries)
}

/// Where the binary with this name is.
pub fn path(name: &str) -> Result<&'static Path> {
    let binaries = BINARIES.get().context("the servers have not been built")?;
    let path = binaries.get(name).with_context(|| format!("there is no binary {name:?}"))?;
    Ok(path)
}
