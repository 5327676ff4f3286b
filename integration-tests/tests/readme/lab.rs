//! The commands of the lab. A trace is taken really; only what would write over the figures of
//! the documentation goes elsewhere, and is of one server. Of a benchmark, which takes minutes,
//! the shortest part is run, in the profile that is built already.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use integration_tests::Workspace;
use contract::server::Output;

use crate::session::{self, Run};

/// For all traces; a multiple of what they take.
const LIMIT: Duration = Duration::from_secs(300);

/// They share the place of their records, and the processors.
static LAB: Mutex<()> = Mutex::new(());

pub fn works(run: &Run, workspace: &Workspace) -> Result<()> {
    let _lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let _alone = session::alone();
        run.build()?;
    }
    let out = tempfile::tempdir()?;
    match run.arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bench", options @ ..] => {
            ensure!(matches!(options, [] | ["--quick"] | ["--out", _]), "teach me {options:?}");
            let quick = "bench --quick --servers epoll-echo --scenario active --out";
            succeeds(&output(run, quick, Some(out.path()))?)?;
            has(out.path(), "README.md")
        }
        ["trace", ..] if !has_strace() => {
            let output = output(run, &run.arguments.join(" "), None)?;
            let says = output.stderr.lines().count() > 0 && output.stderr.contains("strace");
            ensure!(!output.status.success() && says, "{}: {}", output.status, output.stderr);
            Ok(())
        }
        ["trace", "--all"] => {
            let output = output(run, "trace --all", None)?;
            succeeds(&output)?;
            let drawn = |name: &str| {
                let mut files = output.stdout.lines().map(Path::new);
                files.any(|it| it.is_file() && it.file_stem().is_some_and(|stem| stem == name))
            };
            for server in workspace.servers().filter(|server| !server.is_mode()) {
                let excuse = format!("{} is left out: ", server.name);
                let excused = server.unavailable().is_some() && output.stderr.contains(&excuse);
                ensure!(drawn(&server.name) || excused, "{}: {}", server.name, output.stderr);
            }
            ensure!(drawn("comparison"), "no comparison: {}", output.stderr);
            Ok(())
        }
        ["trace", "--all", "--out", _] => {
            succeeds(&output(run, "trace epoll-echo --out", Some(out.path()))?)?;
            has(out.path(), "epoll-echo.svg")
        }
        ["trace", server, "--text"] => {
            let output = output(run, &format!("trace {server} --text"), None)?;
            succeeds(&output)?;
            let tells = ["wait", "copy"].iter().all(|phase| output.stdout.contains(phase));
            ensure!(tells, "it tells {:?}", output.stdout);
            Ok(())
        }
        other => bail!("what is to be seen of {other:?}? Teach tests/readme/lab.rs"),
    }
}

fn output(run: &Run, arguments: &str, out: Option<&Path>) -> Result<Output> {
    let out = out.map(|out| out.display().to_string()).unwrap_or_default();
    run.launch(&format!("cargo run -p lab -- {arguments} {out}")).output_within(LIMIT)
}

fn succeeds(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}: {}", output.status, output.stderr);
    Ok(())
}

fn has(folder: &Path, file: &str) -> Result<()> {
    ensure!(folder.join(file).is_file(), "there is no {file}");
    Ok(())
}

fn has_strace() -> bool {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    probe.is_ok_and(|output| output.status.success())
}
