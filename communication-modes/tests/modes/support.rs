//! What the tests share: the programs, clients for them, and the conditions under which a test is
//! skipped.

use std::env;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;

/// How long a test waits for something that is certain to happen. A busy machine may be slow.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A check and its name. `T` is what it checks.
pub type Check<T> = (&'static str, fn(T) -> Result<()>);

/// Makes a test. It is shown as skipped if something that it needs is `missing`.
pub fn trial(
    name: impl Into<String>,
    missing: Option<&str>,
    test: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let run = move || test().map_err(|error| format!("{error:#}").into());
    let trial = Trial::test(name, run);
    match missing {
        None => trial,
        Some(what) => trial.with_kind(format!("skipped: no {what}")).with_ignored_flag(true),
    }
}

/// Makes one test per function. Each is named after the module and the function.
macro_rules! trials {
    ($module:literal: $($name:ident)*) => {
        vec![$($crate::support::trial(concat!($module, "::", stringify!($name)), None, $name)),*]
    };
}
pub(crate) use trials;

/// Returns `name` if there is no such program.
pub fn missing(name: &'static str) -> Option<&'static str> {
    let paths = env::var_os("PATH").unwrap_or_default();
    // Debian installs nginx and nats-server into a folder that is in the PATH of root only.
    let mut folders = env::split_paths(&paths).chain(["/usr/sbin".into()]);
    (!folders.any(|folder| folder.join(name).is_file())).then_some(name)
}

/// Returns the path of a program that is not [`missing`].
pub fn find(name: &'static str) -> String {
    let sbin = format!("/usr/sbin/{name}");
    if Path::new(&sbin).is_file() { sbin } else { name.to_owned() }
}

/// Returns the path of the binary of a mode.
pub fn program(mode: &str) -> &'static Path {
    Path::new(match mode {
        "synchronous" => env!("CARGO_BIN_EXE_synchronous"),
        "callback" => env!("CARGO_BIN_EXE_callback"),
        "intermediary" => env!("CARGO_BIN_EXE_intermediary"),
        "publish-subscribe" => env!("CARGO_BIN_EXE_publish-subscribe"),
        "decentralised" => env!("CARGO_BIN_EXE_decentralised"),
        mode => unreachable!("{mode}"),
    })
}

/// Starts a mode in the role of a server.
pub fn server(mode: &str, args: &[&str]) -> Result<Process> {
    start(mode, args)?.listening()
}

/// Starts a mode.
pub fn start(mode: &str, args: &[&str]) -> Result<Process> {
    Process::start("", program(mode), args)
}

/// Runs a mode until it ends.
pub fn run(mode: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "60"]).arg(program(mode)).args(args);
    Ok(command.stdin(Stdio::null()).output()?)
}

/// Runs a Python script until it ends.
pub fn python(script: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    Ok(command.args(["--kill-after=1", "100", "python3", "-c", script]).args(args).output()?)
}

/// Checks that a run succeeded, and returns what it printed on stdout.
pub fn succeeds(output: &Output) -> Result<String> {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{}: {out:?} {err:?}", output.status);
    Ok(out)
}

/// Checks that a run failed with `status`, printed nothing on stdout, and one line with `part` on
/// stderr.
pub fn fails(output: &Output, status: i32, part: &str) -> Result<()> {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(status), "{}: {out:?} {err:?}", output.status);
    ensure!(out.is_empty() && err.lines().count() == 1, "{out:?} {err:?}");
    ensure!(err.contains(part), "no {part:?} in {err:?}");
    Ok(())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `condition` is true. `what` describes it.
pub fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits for a thread of the test.
pub fn join<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().ok().context("a thread of the test panicked")?
}
