//! What each server costs, side by side.

#![allow(clippy::cast_precision_loss, reason = "no figure here has more than 15 digits")]

mod calls;
mod host;
mod load;
mod page;
mod plots;
mod points;
mod sample;
mod server;
mod subjects;
mod summary;
mod tables;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use calls::Counter;
use host::Cores;
use points::{Point, Scenario};
use sample::{Method, Outcome, Sample};
use server::Binaries;
use subjects::{SUBJECTS, Subject};
use summary::Summary;
use tables::Medium;

/// How often a sample is repeated in which something else had a core for too long.
const REPEATS: usize = 2;
/// In how many rounds system calls are counted, which takes time of its own. A count varies less
/// than a time, but it does: a server that is waited for finds more to do each time it wakes.
const COUNTED: usize = 3;
/// All repeats together take no more than this part of the planned time: a quarter.
const REPEATS_SHARE: u32 = 4;
/// Descriptors that server and load each need besides those for the connections.
const SPARE: usize = 64;
/// What a sample takes besides the time it measures; and each of its connections. They are only
/// for the progress bar.
const START: Duration = Duration::from_millis(120);
const CONNECTION: Duration = Duration::from_micros(100);

/// Measures what each server costs.
#[derive(Parser)]
struct Bench {
    /// Measure everything shortly: about a minute
    #[arg(long)]
    quick: bool,
    /// Only these servers, peers and floors
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    servers: Vec<String>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_enum)]
    scenario: Vec<Scenario>,
    /// Where the samples, the page and the plots go [default: below target/]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How often each sample is taken [default: 9, or 1 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
}

/// What is to be measured, and how.
struct Plan {
    subjects: Vec<&'static Subject>,
    points: Vec<Point>,
    rounds: usize,
    method: Method,
    /// Limit on descriptors.
    descriptors: usize,
    binaries: Binaries,
}

fn main() -> ExitCode {
    match Bench::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    /// Measures, and writes what there is to see.
    fn run(self) -> Result<()> {
        let subjects = self.subjects()?;
        let binaries = server::build(&subjects)?;
        let out = match &self.out {
            Some(out) => out.clone(),
            // This binary is at target/PROFILE/bench.
            None => env::current_exe()?.ancestors().nth(2).unwrap_or(Path::new(".")).join("bench"),
        };
        fs::create_dir_all(&out).with_context(|| format!("cannot write to {}", out.display()))?;

        let cores = Cores::choose()?;
        host::pin(cores.load)?;
        let plan = Plan {
            points: points::plan(&self.scenario, self.quick),
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 9 }),
            method: Method::new(self.quick, cores, Counter::choose()),
            descriptors: host::raise_descriptors()?,
            subjects,
            binaries,
        };
        let machine = host::describe(cores)?;
        for line in &machine {
            say(line);
        }
        if cfg!(debug_assertions) {
            say("A build without optimisation: the figures mean nothing.");
        }
        let samples = plan.measure(&out.join("samples.csv"))?;
        let summary = Summary::new(samples);
        let Plan { subjects, points, rounds, method, .. } = plan;
        let plots = plots::draw(&out, &summary, &points, &subjects)?;
        let page = page::page(&summary, &points, &subjects, method, &machine, rounds, &plots);
        fs::write(out.join("README.md"), page)?;
        for (title, note, table) in tables::overview(&summary, &points, &subjects, Medium::Terminal)
        {
            say(&format!("\n{title}{}{note}\n{table}", if note.is_empty() { "" } else { ". " }));
        }
        say(&format!("\n{}", tables::legend(&summary)));
        say(&format!("\nSamples, tables and plots: {}", out.display()));
        let failures = summary.failures();
        if !failures.is_empty() {
            bail!("failed:\n{}", failures.join("\n"));
        }
        Ok(())
    }

    fn subjects(&self) -> Result<Vec<&'static Subject>> {
        if self.servers.is_empty() {
            return Ok(SUBJECTS.iter().collect());
        }
        let find = |name: &String| {
            subjects::find(name).with_context(|| {
                let names: Vec<_> = SUBJECTS.iter().map(|subject| subject.name).collect();
                format!("there is no server {name:?}; there are {}", names.join(", "))
            })
        };
        self.servers.iter().map(find).collect()
    }
}

impl Method {
    /// Many short samples rather than a few long ones: what drifts meanwhile is the same for all
    /// servers of a round, and an outlier leaves the median of nine rounds where it is.
    fn new(quick: bool, cores: Cores, counter: Counter) -> Self {
        let [warm_up, time, counting] = if quick { [50, 120, 20] } else { [100, 300, 100] };
        let [warm_up, time, counting] = [warm_up, time, counting].map(Duration::from_millis);
        Self { cores, warm_up, time, counting, counter }
    }
}

impl Plan {
    /// The servers take turns under each load, and so round after round.
    ///
    /// Each sample is written at once: what was measured is kept, however this ends.
    fn measure(&self, path: &Path) -> Result<Vec<Sample>> {
        let mut file = csv::Writer::from_path(path)?;
        let mut turns = Vec::new();
        for round in 1..=self.rounds {
            for &point in &self.points {
                let subjects = self.subjects.iter().filter(|subject| point.concerns(subject));
                turns.extend(subjects.map(|&subject| (round, point, subject)));
            }
        }
        let costs = turns.iter().map(|&(round, point, subject)| self.cost(round, point, subject));
        let total: Duration = costs.sum();
        say(&format!("{} samples, about {}", turns.len(), HumanDuration(total)));
        let bar = ProgressBar::new(total.as_millis() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {prefix} left  {wide_msg}")?);
        let mut samples = Vec::new();
        let mut repeats = total / REPEATS_SHARE;
        for (round, point, subject) in turns {
            let left = if bar.position() == 0 { total } else { bar.eta() };
            bar.set_prefix(HumanDuration(left).to_string());
            bar.set_message(format!("{} · {point} · round {round}", subject.name));
            bar.tick();
            let taken = self.samples(round, point, subject, &mut repeats);
            for sample in &taken {
                file.serialize(sample.row())?;
            }
            file.flush()?;
            samples.extend(taken);
            bar.inc(self.cost(round, point, subject).as_millis() as u64);
        }
        bar.finish_and_clear();
        Ok(samples)
    }

    /// A sample, after those that were not good enough.
    fn samples(
        &self,
        round: usize,
        point: Point,
        subject: &'static Subject,
        repeats: &mut Duration,
    ) -> Vec<Sample> {
        if let Some(note) = self.impossible(point, subject) {
            return vec![Sample::skipped(round, point, subject, note)];
        }
        let cost = self.cost(round, point, subject);
        let mut samples = Vec::new();
        for attempt in 0..=REPEATS {
            let counting = round <= COUNTED && attempt == 0;
            let sample = Sample::take(round, point, subject, &self.binaries, self.method, counting);
            let outcome = sample.outcome;
            samples.push(sample);
            if outcome != Outcome::Disturbed || *repeats < cost {
                break;
            }
            *repeats -= cost;
        }
        samples
    }

    fn impossible(&self, point: Point, subject: &Subject) -> Option<String> {
        let connections = point.connections();
        if connections > subject.holds {
            Some(format!("holds {}", subject.holds))
        } else if connections + SPARE > self.descriptors {
            Some(format!("the limit on descriptors here is {}", self.descriptors))
        } else {
            None
        }
    }

    fn cost(&self, round: usize, point: Point, subject: &Subject) -> Duration {
        if self.impossible(point, subject).is_some() {
            return Duration::ZERO;
        }
        let counting = if round <= COUNTED { self.method.counting + START } else { Duration::ZERO };
        let joins = if let Point::Chat { clients } = point { clients * clients / 50 } else { 0 };
        START
            + self.method.warm_up
            + self.method.time
            + counting
            + CONNECTION * (point.connections() + joins) as u32
    }
}

/// Prints, if somebody reads it.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
