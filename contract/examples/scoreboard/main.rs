//! Runs the contract against well-known servers, and against the echo servers that other ecosystems
//! teach, and writes `docs/scoreboard.md`.
//!
//! ```text
//! cargo run --release -p contract --example scoreboard
//! cargo run --release -p contract --example scoreboard -- --quick nginx python-asyncio
//! ```
//!
//! The servers are in this folder. They need compilers and runtimes, all of them packages of Debian:
//! `--list` names them. A program that this machine cannot run is left out, and the page says so.

mod page;
mod programs;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::Value;

use programs::{PROGRAMS, Program};

/// Runs the contract against servers of other ecosystems, and writes docs/scoreboard.md.
///
/// The results are kept in the target folder. If programs are named, only these run, and the page
/// shows the last results of the others. The exit status is 1 if a server for production breaks a
/// rule for which the page has no explanation.
#[derive(Debug, Parser)]
struct Options {
    /// The programs to run [default: all]
    programs: Vec<String>,
    /// Only the most telling cases; does not write the page
    #[arg(long)]
    quick: bool,
    /// Run each program so many times, and compare the verdicts; does not write the page
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Write the page from the results of earlier runs, and run nothing
    #[arg(long)]
    page: bool,
    /// List the programs, and what each of them needs
    #[arg(long)]
    list: bool,
}

/// What became of a program.
#[derive(Debug)]
pub enum Outcome {
    /// The report of `contract`, and the version of the program.
    Ran(Value, String),
    /// It did not run, for this reason.
    LeftOut(String),
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        for program in PROGRAMS {
            println!("{:<20} {} (Debian: {})", program.name, program.what, program.packages);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &options.programs {
        let is_known = PROGRAMS.iter().any(|program| program.name == name);
        ensure!(is_known, "there is no program {name:?}; --list shows all of them");
    }
    let places = Places::find()?;
    let mut unexplained = Vec::new();
    for program in PROGRAMS {
        let is_named =
            options.programs.is_empty() || options.programs.iter().any(|it| it == program.name);
        if is_named && !options.page {
            unexplained.extend(match options.repeat {
                Some(times) => repeat(program, times, &options, &places)?,
                None => run(program, &options, &places)?,
            });
        }
    }
    if !options.quick && options.repeat.is_none() {
        let outcomes: Vec<_> =
            PROGRAMS.iter().map(|program| (program, places.stored(program))).collect();
        let path = places.root.join("docs/scoreboard.md");
        fs::write(&path, page::write(&outcomes))?;
        println!("wrote {}", path.display());
    }
    for failure in &unexplained {
        eprintln!("not explained, or not the same each time: {failure}");
    }
    Ok(if unexplained.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a program, and keeps the report. Returns the failures for which there is no explanation.
fn run(program: &'static Program, options: &Options, places: &Places) -> Result<Vec<String>> {
    let start = Instant::now();
    let result = places.prepare(program).and_then(|version| {
        let report = places.contract(program, options)?;
        Ok((report, version))
    });
    let stored = places.file(program);
    let (mut report, version) = match result {
        Ok(result) => result,
        Err(error) => {
            println!("{}: left out: {error:#}", program.name);
            if !options.quick {
                fs::write(
                    stored,
                    serde_json::json!({ "left_out": format!("{error:#}") }).to_string(),
                )?;
            }
            return Ok(Vec::new());
        }
    };
    let failures = page::failures(&report);
    println!(
        "{}: {} not kept, {} s{}",
        program.name,
        failures.len(),
        start.elapsed().as_secs(),
        if failures.is_empty() { String::new() } else { format!(": {}", failures.join(", ")) }
    );
    if !options.quick {
        report["version"] = version.into();
        fs::write(stored, serde_json::to_string_pretty(&report)?)?;
    }
    let mut unexplained = failures;
    unexplained.retain(|case| program.for_production && program.note(case).is_none());
    Ok(unexplained.into_iter().map(|case| format!("{}: {case}", program.name)).collect())
}

/// Runs a program several times. Returns the cases that do not have the same verdict each time.
fn repeat(
    program: &Program,
    times: usize,
    options: &Options,
    places: &Places,
) -> Result<Vec<String>> {
    places.prepare(program)?;
    let mut verdicts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for number in 1..=times {
        let start = Instant::now();
        let report = places.contract(program, options)?;
        let failures = page::failures(&report).join(", ");
        println!(
            "{} {number}: {} s, not kept: {failures}",
            program.name,
            start.elapsed().as_secs()
        );
        for (case, verdict) in page::verdicts(&report) {
            *verdicts.entry(case).or_default().entry(verdict).or_default() += 1;
        }
    }
    verdicts.retain(|_, counts| counts.len() > 1);
    Ok(verdicts
        .into_iter()
        .map(|(case, counts)| format!("{}: {case}: {counts:?}", program.name))
        .collect())
}

/// Where everything is.
struct Places {
    root: PathBuf,
    examples: PathBuf,
    /// What is built, and the results.
    out: PathBuf,
    contract: PathBuf,
}

impl Places {
    /// Finds the folders, and builds the program `contract`.
    fn find() -> Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.parent().context("the package has no parent folder")?.to_owned();
        let this = env::current_exe()?;
        // target/release/examples/scoreboard
        let profile = this.ancestors().nth(2).context("the program is in no target folder")?;
        let out = profile.join("scoreboard");
        fs::create_dir_all(&out)?;
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet", "--package", "contract", "--bin", "contract"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        ensure!(cargo.current_dir(&root).status()?.success(), "`contract` cannot be built");
        let contract = profile.join("contract");
        Ok(Self { examples: package.join("examples"), root, out, contract })
    }

    /// The report of the last run.
    fn file(&self, program: &Program) -> PathBuf {
        self.out.join(format!("{}.json", program.name))
    }

    fn stored(&self, program: &Program) -> Outcome {
        let text = fs::read_to_string(self.file(program)).unwrap_or_default();
        match serde_json::from_str::<Value>(&text) {
            Err(_) => Outcome::LeftOut("it was not run".to_owned()),
            Ok(report) => match (report["left_out"].as_str(), report["version"].as_str()) {
                (Some(reason), _) => Outcome::LeftOut(reason.to_owned()),
                (None, version) => {
                    let version = version.unwrap_or_default().to_owned();
                    Outcome::Ran(report, version)
                }
            },
        }
    }

    /// Replaces the names of folders in the words of a command.
    fn fill_in(&self, words: &[&str]) -> Vec<String> {
        let (examples, out) = (self.examples.display().to_string(), self.out.display().to_string());
        words.iter().map(|word| word.replace("EXAMPLES", &examples).replace("OUT", &out)).collect()
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let words = self.fill_in(words);
        let (program, arguments) = words.split_first().context("there is no command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// Finds out the version of the program or of its runtime, and builds it.
    fn prepare(&self, program: &Program) -> Result<String> {
        let mut command = self.command(program.version)?;
        let output = command.output();
        let missing =
            || format!("this machine has no {} (Debian: {})", program.version[0], program.packages);
        let output = output.with_context(missing)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let version = text.lines().find(|line| line.contains(|it: char| it.is_ascii_digit()));
        let version = version.with_context(missing)?.trim().to_owned();
        if let Some(words) = program.build {
            let output = self.command(words)?.output().with_context(missing)?;
            if !output.status.success() {
                bail!("it cannot be built: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(version)
    }

    /// Runs the contract. Returns its report.
    fn contract(&self, program: &Program, options: &Options) -> Result<Value> {
        let file = self.out.join("report.json");
        let mut command = Command::new(&self.contract);
        command.arg("--json").arg(&file).args(program.options);
        if options.quick {
            command.arg("--quick");
        }
        if !options.quick || options.repeat.is_some() {
            // The results of a busy machine are to be complete, too.
            command.args(["--time-limit", "1200"]);
        }
        command.arg("--").args(self.fill_in(program.command)).stdin(Stdio::null());
        let output = command.output().context("cannot start `contract`")?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(matches!(output.status.code(), Some(0 | 1)), "{}", message.trim());
        Ok(serde_json::from_slice(&fs::read(&file)?)?)
    }
}
