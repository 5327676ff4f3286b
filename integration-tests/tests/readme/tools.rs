//! The commands of `bench`, `trace`, `contract` and `take`.
//!
//! A trace is really taken. A command that would overwrite the figures of the documentation
//! writes to another folder instead, and only for one server. A full benchmark takes minutes, so
//! only its shortest part runs, in the profile that is already built. The programs have the features
//! of the whole workspace, as `cargo test` has built them: to build them again takes a minute.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use contract::binaries;
use contract::server::Output;
use integration_tests::Workspace;

use crate::session::{self, Run};

/// A multiple of what tracing all servers takes.
const LIMIT: Duration = Duration::from_secs(300);

/// The commands run one at a time: they share the folder of their recordings and the processors.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn works(run: &Run, workspace: &Workspace) -> Result<()> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let program = {
        let _alone = session::alone();
        let name = &run.binary.name;
        let built = binaries::cargo_build([name.as_str()])?;
        built.get(name).context("cargo does not say where the program is")?.clone()
    };
    let output = |run: &Run, arguments: &str, out: Option<&Path>| {
        let out = out.map(|out| out.display().to_string()).unwrap_or_default();
        let command = format!("{} {arguments} {out}", program.display());
        run.launch(&command).output_within(LIMIT)
    };
    let out = tempfile::tempdir()?;
    let arguments: Vec<&str> = run.arguments.iter().map(String::as_str).collect();
    match (run.binary.package.as_str(), arguments.as_slice()) {
        (
            "bench",
            [] | ["--quick"] | ["--out" | "--scenario", _] | ["--scenario", _, "--out", _],
        ) => {
            let quick = "--quick --servers epoll-echo --scenario active --out";
            check_success(&output(run, quick, Some(out.path()))?)?;
            check_file(out.path(), "README.md")
        }
        // It takes half an hour.
        ("contract", ["--example", "scoreboard", ..]) => {
            let launch = run.launch("cargo run -p contract --example scoreboard -- --list");
            let output = launch.output_within(LIMIT)?;
            check_success(&output)?;
            ensure!(output.stdout.contains("redis-server"), "{}", output.stdout);
            Ok(())
        }
        // The servers of the examples are the reader's. So only the options are checked.
        ("contract", _) => {
            let output = output(run, &format!("--list {}", run.arguments.join(" ")), None)?;
            check_success(&output)?;
            ensure!(output.stdout.contains("half_close::small"), "{}", output.stdout);
            Ok(())
        }
        ("trace", _) if !has_strace() => {
            let output = output(run, &run.arguments.join(" "), None)?;
            let names_strace = output.stderr.contains("strace");
            ensure!(
                !output.status.success() && names_strace,
                "{}: {}",
                output.status,
                output.stderr
            );
            Ok(())
        }
        ("trace", ["--all"]) => {
            let output = output(run, "--all", None)?;
            check_success(&output)?;
            let drawn = |name: &str| {
                let mut files = output.stdout.lines().map(Path::new);
                files.any(|it| it.is_file() && it.file_stem().is_some_and(|stem| stem == name))
            };
            for server in workspace.servers().filter(|server| !server.is_mode()) {
                let message = format!("skipped {}: ", server.name);
                let skipped = server.unavailable().is_some() && output.stderr.contains(&message);
                ensure!(drawn(&server.name) || skipped, "{}: {}", server.name, output.stderr);
            }
            ensure!(drawn("comparison"), "no comparison: {}", output.stderr);
            Ok(())
        }
        ("trace", ["--all", "--out", _]) => {
            check_success(&output(run, "epoll-echo --out", Some(out.path()))?)?;
            check_file(out.path(), "epoll-echo.svg")
        }
        ("trace", [server]) => {
            let output = output(run, server, None)?;
            check_success(&output)?;
            ensure!(output.stdout.contains(&format!("{server}.svg")), "{}", output.stdout);
            Ok(())
        }
        ("trace", [server, "--text"]) => {
            let output = output(run, &format!("{server} --text"), None)?;
            check_success(&output)?;
            let both = ["wait", "copy"].iter().all(|phase| output.stdout.contains(phase));
            ensure!(both, "no wait or no copy in {:?}", output.stdout);
            Ok(())
        }
        ("take", [server, _, options @ ..]) => {
            let arguments = format!("{} {server}", options.join(" "));
            check_success(&output(run, arguments.trim(), Some(out.path()))?)?;
            check_file(out.path(), "src/main.rs")
        }
        other => bail!("what should {other:?} print? Add it to tests/readme/tools.rs"),
    }
}

fn check_success(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}: {}", output.status, output.stderr);
    Ok(())
}

fn check_file(folder: &Path, file: &str) -> Result<()> {
    ensure!(folder.join(file).is_file(), "there is no {file}");
    Ok(())
}

fn has_strace() -> bool {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    probe.is_ok_and(|output| output.status.success())
}
