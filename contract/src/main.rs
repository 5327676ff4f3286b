//! Runs the contract against any TCP server.
//!
//! ```text
//! cargo run --release -p contract -- ./my-echo {addr}
//! cargo run --release -p contract -- --probe http -- python3 -m http.server {port}
//! cargo run --release -p contract -- --connect 127.0.0.1:7000
//! ```
//!
//! - [`options`]: the command line, and the target that it describes.
//! - [`examine`]: starts the server once, to learn what it needs.
//! - [`run`]: runs the cases.
//! - [`report`]: the table, the failures, JSON and `JUnit`.

mod examine;
mod options;
mod report;
mod run;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use contract::guard::{self, Limits};
use contract::{conversation, wait};
use rustix::process::{Resource, Rlimit, getrlimit, set_child_subreaper, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use options::Options;

/// The exit status if something is not kept.
const NOT_KEPT: u8 = 1;
/// The exit status if the cases could not run.
const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = check(&options);
    guard::kill_all();
    guard::kill_strays();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => NOT_KEPT.into(),
        Err(error) => {
            eprintln!("contract: {error:#}");
            COULD_NOT_RUN.into()
        }
    }
}

/// Returns whether the server keeps everything.
fn check(options: &Options) -> Result<bool> {
    if options.list {
        report::list();
        return Ok(true);
    }
    protect_the_machine()?;
    wait::set_timeout(options.timeout());
    let target = options.target()?;
    let plan = run::plan(&target, options)?;
    let target = examine::examine(target, options)?;
    if options.trace {
        conversation::enable(); // of the cases only
    }
    let results = run::run(&target, &plan, options);
    let report = report::Report::new(&target, results);
    report.print();
    if let Some(path) = &options.json {
        report.write_json(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.junit {
        report.write_junit(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let out_of_time = report.out_of_time();
    ensure!(
        !report.is_kept() || out_of_time == 0,
        "{out_of_time} cases did not run, because the time was over; --time-limit gives them more"
    );
    Ok(report.is_kept())
}

/// Nothing that is started here outlives this process or uses up the machine.
fn protect_the_machine() -> Result<()> {
    // The cases that need more file descriptors than the hard limit are left out.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    // A server that puts itself into the background becomes a child of this process.
    set_child_subreaper(Some(rustix::process::getpid()))?;
    guard::watch(Limits { memory: memory_limit(), threads: 20_000 });
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            guard::kill_all();
            guard::kill_strays();
            eprintln!("contract: interrupted; the servers that it started are killed");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Half of the memory that is available, and at most 2 GiB.
fn memory_limit() -> u64 {
    const MOST: u64 = 2 << 30;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = available.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.map_or(MOST, |kibibytes| (kibibytes * 1024 / 2).min(MOST))
}
