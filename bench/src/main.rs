//! Measures what each server costs, side by side.
//!
//! Run: `cargo run --release -p bench`, or with `--quick` for a first impression.
//!
//! - [`subjects`] are measured under [`workloads`]; the [`plan`] says in which order.
//! - [`measure`] takes a [`sample`]: it starts the [`server`], lets the [`clients`] keep it busy
//!   on the cores that [`host`] chose, and has [`syscalls`] counted.
//! - [`summary`] computes medians and ratios, for the [`tables`], the [`plots`] and the [`page`].

#![allow(clippy::cast_precision_loss, reason = "no figure here has more than 15 digits")]

mod clients;
mod grid;
mod host;
mod measure;
mod page;
mod plan;
mod plots;
mod run_info;
mod sample;
mod server;
mod subjects;
mod summary;
mod syscalls;
mod tables;
mod terminal;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use grid::Medium;
use host::Cores;
use measure::Method;
use plan::Plan;
use run_info::RunInfo;
use sample::Sample;
use subjects::Subject;
use summary::Summary;
use syscalls::Counter;
use tables::{Report, Titled};
use terminal::{fold, print_line};
use workloads::{Scenario, Workload};

/// The samples of a complete run.
const SAMPLES: &str = "samples.csv";
/// The samples of a run that is not complete.
const NEW_SAMPLES: &str = "samples.new.csv";
const RUN_INFO: &str = "run.json";
const PAGE: &str = "README.md";

/// How long a quick run takes at most, without the build.
const QUICK_MINUTES: u64 = 3;

fn quick_help() -> String {
    format!(
        "Measure with fewer and shorter samples: up to {QUICK_MINUTES} minutes, plus the time for \
         the build"
    )
}

/// Measures what each server costs, side by side.
///
/// Builds the servers, measures them on this machine, and writes the samples, a page with tables
/// (README.md), and plots.
#[derive(Parser)]
struct Arguments {
    #[arg(long, help = quick_help())]
    quick: bool,
    /// Measure only these servers, references and baselines
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    servers: Vec<String>,
    /// Measure only these scenarios [default: active,idle,large,pause,chat]
    #[arg(long, value_delimiter = ',', value_enum)]
    scenario: Vec<Scenario>,
    /// Write to this folder [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take each sample this often [default: 9, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Measure nothing; write the page and the plots again from the samples in this folder
    #[arg(long, value_name = "DIR", exclusive = true)]
    page: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.page {
        Some(dir) => redraw(dir),
        None => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let subjects = find_subjects(&arguments.servers)?;
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => server::target_dir()?.join("bench"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let binaries = server::build(&subjects)?;

    let cores = Cores::choose()?;
    host::pin(&[cores.clients])?;
    let plan = Plan {
        subjects,
        workloads: workloads::of_scenarios(&arguments.scenario, arguments.quick),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 9 }) as usize,
        method: Method::new(arguments.quick, cores, Counter::choose()),
        descriptors: host::raise_descriptor_limit()?,
    };
    if plan.workloads.iter().any(|it| matches!(it, Workload::Compute { .. })) {
        clients::compute::calibrate();
    }
    let info = RunInfo {
        rounds: plan.rounds,
        sample_seconds: plan.method.time.as_secs_f64(),
        counter: plan.method.counter,
        optimized: !cfg!(debug_assertions),
        machine: host::describe(cores)?,
    };
    introduce(&info, &out);

    let new_samples = out.join(NEW_SAMPLES);
    let samples = plan.take_samples(&binaries, &new_samples)?;
    let path = out.join(SAMPLES);
    fs::rename(&new_samples, &path)
        .with_context(|| format!("cannot replace {}", path.display()))?;
    info.write(&out.join(RUN_INFO))?;
    let summary = Summary::new(samples);
    let report = Report {
        summary: &summary,
        workloads: &plan.workloads,
        subjects: &plan.subjects,
        medium: Medium::Terminal,
    };
    write_page(report, &info, &out)?;
    print_tables(report, &out);
    let failures = summary.failures();
    if !failures.is_empty() {
        bail!("failed:\n{}", failures.join("\n"));
    }
    Ok(())
}

/// Says what is known before the first sample.
fn introduce(info: &RunInfo, out: &Path) {
    for line in &info.machine {
        print_line(&fold(line));
    }
    if !info.optimized {
        print_line("This is a build without optimization: the figures mean nothing.");
    }
    if info.counter == Counter::None {
        print_line(&fold(
            "System calls are not counted: neither perf nor strace can count them on this machine.",
        ));
    }
    if out.join(SAMPLES).exists() {
        let text = format!(
            "When this run is complete, it replaces the samples, tables and plots of an earlier \
             run in {}. Until then its samples are in {NEW_SAMPLES}.",
            out.display()
        );
        print_line(&fold(&text));
    }
}

/// Writes the page and the plots again from the samples.
fn redraw(dir: &Path) -> Result<()> {
    let info = RunInfo::read(&dir.join(RUN_INFO))?;
    let samples: Vec<Sample> = sample::read_all(&dir.join(SAMPLES))?;
    let summary = Summary::new(samples);
    let subjects: Vec<&Subject> =
        subjects::all().iter().filter(|subject| summary.has_server(subject.name)).collect();
    let mut workloads: Vec<Workload> = workloads::all();
    workloads.retain(|&workload| summary.has_workload(workload));
    let report = Report {
        summary: &summary,
        workloads: &workloads,
        subjects: &subjects,
        medium: Medium::Page,
    };
    write_page(report, &info, dir)?;
    print_line(&dir.join(PAGE).display().to_string());
    Ok(())
}

fn write_page(report: Report, info: &RunInfo, dir: &Path) -> Result<()> {
    let plots = plots::draw(dir, report)?;
    let path = dir.join(PAGE);
    fs::write(&path, page::page(report, info, &plots))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn print_tables(report: Report, out: &Path) {
    for Titled { title, note, grid } in report.overview() {
        print_line(&format!("\n{title}"));
        if !note.is_empty() {
            for paragraph in note.split("\n\n") {
                for item in paragraph.split("\n- ") {
                    let words: Vec<&str> = item.split_whitespace().collect();
                    print_line(&fold(&words.join(" ")));
                }
            }
        }
        print_line(&format!("\n{}", grid.render(Medium::Terminal)));
    }
    print_line(&format!("\n{}", fold(&tables::legend(report.summary))));
    print_line(&format!("\nSamples, tables and plots: {}", out.display()));
}

fn find_subjects(names: &[String]) -> Result<Vec<&'static Subject>> {
    if names.is_empty() {
        return Ok(subjects::all().iter().collect());
    }
    let find = |name: &String| {
        subjects::find(name).with_context(|| {
            let names: Vec<&str> = subjects::all().iter().map(|subject| subject.name).collect();
            format!("there is no server {name:?}; the servers are {}", names.join(", "))
        })
    };
    names.iter().map(find).collect()
}
