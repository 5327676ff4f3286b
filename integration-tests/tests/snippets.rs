//! A server that `take` writes into a package of its own works: `snippets::SERVER`. The program
//! `contract` finds nothing wrong with it: `taken::SERVER`, `taken::SERVER_in_one_file`. A run takes a
//! while, so `cargo test` does that for a few servers with `--quick`. This does it for all of them,
//! with all cases:
//!
//! ```text
//! TEST_TAKEN=all cargo test --test snippets taken::
//! ```
//!
//! The packages are members of a workspace in the target folder, so that they share what they
//! build. Each is built alone, because Cargo would otherwise give each of them the features that the
//! others ask for. A trial fails if the compiler warns, for example of code that is not used, if rustfmt
//! would change something, or if a dependency is not used.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use contract::{Kind, Launch, Properties, binaries, catalog};
use integration_tests::{Binary, Workspace, sample, workspace};
use libtest_mimic::{Arguments, Completion, Trial};
use regex::Regex;
use take::{Layout, Package};

/// Held during a build, because Cargo builds one package at a time anyway, and while `contract` runs,
/// because it measures times.
static ALONE: Mutex<()> = Mutex::new(());

/// The servers that `cargo test` checks with `contract`.
const TAKEN: [(&str, Layout); 2] =
    [("epoll-echo", Layout::Modules), ("select-echo", Layout::SingleFile)];
/// `all`: all servers in all layouts, with all cases.
const CHOICE: &str = "TEST_TAKEN";
/// Clients that a server holds in these tests.
const MOST_IDLE_CLIENTS: usize = 1000;

const TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/snippets");
const PACKAGES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/snippets/packages");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, sample::apply(trials)).exit_code(),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>> {
    let workspace = Arc::new(Workspace::read()?);
    let servers = workspace.servers().filter(|server| !server.is_mode()).cloned();
    let trial = |server: Binary| {
        Trial::ignorable_test(format!("snippets::{}", server.name), move || {
            stands_alone(&server).map_err(|error| format!("{error:#}").into())
        })
    };
    let mut trials: Vec<_> = servers.map(trial).collect();
    let all = env::var(CHOICE).is_ok_and(|choice| choice == "all");
    for (name, layout) in if all { everything() } else { TAKEN.to_vec() } {
        let server = workspace.binary(name)?.clone();
        let in_one_file = if layout == Layout::SingleFile { "_in_one_file" } else { "" };
        trials.push(Trial::ignorable_test(format!("taken::{name}{in_one_file}"), move || {
            keeps_the_contract(&server, layout, all).map_err(|error| format!("{error:#}").into())
        }));
    }
    Ok(trials)
}

/// All servers on TCP. A chat server does not fit into one file.
fn everything() -> Vec<(&'static str, Layout)> {
    let mut all = Vec::new();
    for entry in catalog::SERVERS.iter().filter(|entry| entry.kind != Kind::Datagram) {
        all.push((entry.name, Layout::Modules));
        if entry.kind == Kind::Echo {
            all.push((entry.name, Layout::SingleFile));
        }
    }
    all
}

/// Runs the program `contract` against the server in a package of its own.
fn keeps_the_contract(server: &Binary, layout: Layout, in_full: bool) -> Result<Completion> {
    let entry = catalog::find(&server.name).context("the server is not in the catalog")?;
    if let Some(missing) = server.unavailable() {
        return Ok(Completion::ignored_with(missing));
    }
    let one_file = if layout == Layout::SingleFile { "-in-one-file" } else { "" };
    let name = format!("{}{one_file}", server.name);
    let program = build(&name, &Package::new(&server.name, &name, layout)?)?;

    let idle_clients = entry.properties.idle_clients.min(MOST_IDLE_CLIENTS);
    let mut command = Command::new(contract_program()?);
    command.args(Properties { idle_clients, ..entry.properties }.options());
    if !in_full {
        command.arg("--quick");
    }
    if entry.kind == Kind::Chat {
        command.args(["--probe", "chat"]);
    }
    command.arg("--").arg(program).arg("{addr}").args(entry.argument);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = command.output().context("cannot start `contract`")?;
    let [report, errors] =
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    ensure!(output.status.success(), "{command:?}: {}\n{report}{errors}", output.status);
    Ok(Completion::Completed)
}

/// The program `contract`.
fn contract_program() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || binaries::build(["contract"]).map_err(|error| format!("{error:#}"));
    BUILT.get_or_init(build).clone().map_err(anyhow::Error::msg)?;
    binaries::path("contract")
}

fn stands_alone(server: &Binary) -> Result<Completion> {
    let package = Package::new(&server.name, &server.name, Layout::Modules)?;
    check_dependencies(&package.files)?;
    check_comments(&package.files)?;
    let program = build(&server.name, &package)?;
    if let Some(missing) = server.unavailable() {
        return Ok(Completion::ignored_with(missing));
    }
    let launch = Launch::new(server.name.clone(), ["127.0.0.1:0"]).program(&program);
    launch.serve(|running| server.greet(running.address()))?;
    Ok(Completion::Completed)
}

/// Fails if the code does not use a dependency.
fn check_dependencies(files: &BTreeMap<PathBuf, String>) -> Result<()> {
    let manifest = files.get(Path::new("Cargo.toml")).context("there is no manifest")?;
    let (_, dependencies) = manifest.split_once("[dependencies]\n").context("no dependencies")?;
    for line in dependencies.lines() {
        let (name, _) = line.split_once(" = ").context("a dependency without a version")?;
        let path = Regex::new(&format!(r"\b{}::", name.replace('-', "_")))?;
        ensure!(files.values().any(|text| path.is_match(text)), "nothing uses {name}");
    }
    Ok(())
}

/// Fails if a comment refers to a file that is not in the package.
fn check_comments(files: &BTreeMap<PathBuf, String>) -> Result<()> {
    let elsewhere =
        Regex::new(r"[Pp]itfalls?:|pitfalls/|docs/|[a-z]-(?:echo|chat)/src|cargo run -p")?;
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("src")) {
        for line in text.lines() {
            ensure!(!elsewhere.is_match(line), "{}: {line}", path.display());
        }
    }
    Ok(())
}

/// Builds the package with this name, and returns its program.
fn build(name: &str, package: &Package) -> Result<PathBuf> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let workspace = Path::new(PACKAGES).join(name);
    let folder = workspace.join("package");
    for (path, text) in &package.files {
        write(&folder.join(path), text)?;
    }
    write(
        &workspace.join("Cargo.toml"),
        "[workspace]\nresolver = \"3\"\nmembers = [\"package\"]\n",
    )?;
    let lock = package.files.get(Path::new("Cargo.lock")).context("there is no lock file")?;
    write(&workspace.join("Cargo.lock"), lock)?;

    let output = cargo(&workspace, &["build", "--offline", "--target-dir", TARGET])?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !log.contains("warning: "), "{log}");
    let output = cargo(&workspace, &["fmt", "--all", "--check"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(Path::new(TARGET).join("debug").join(name))
}

fn cargo(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(workspace::cargo());
    command.current_dir(folder).args(arguments);
    // The package is not debugged.
    command.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")]);
    command.output().context("cannot start cargo")
}

/// Writes a file, unless it has this text already: Cargo builds again what is newer.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("the file has no folder")?)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
