//! Runs the cases.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contract::case::Skip;
use contract::cases::{self, Lines};
use contract::probe::Protocol;
use contract::{Case, Target};
use indicatif::{ProgressBar, ProgressStyle};

use crate::options::Options;

/// A case of a line of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// The name of the line.
    pub line: &'static str,
    /// The case.
    pub case: &'static Case,
}

/// What became of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub planned: Planned,
    /// What was found.
    pub verdict: Verdict,
    /// How long it took.
    pub time: Duration,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server does what it has to.
    Kept,
    /// It does not: what was seen.
    NotKept(String),
    /// The case does not apply, or cannot run here: the reason.
    Skipped(&'static str),
    /// The time of the whole run was over before the case was complete.
    OutOfTime,
}

/// The lines of the contract that this server can keep.
pub fn lines(target: &Target) -> Lines {
    match target.probe.protocol {
        Protocol::Chat => cases::SMALL_CHAT,
        _ => cases::ECHO,
    }
}

/// The cases that the options choose.
pub fn plan(target: &Target, options: &Options) -> Result<Vec<Planned>> {
    let mut plan = Vec::new();
    for (line, cases) in lines(target) {
        for case in *cases {
            let full_name = format!("{line}::{}", case.name);
            let named = options.only.iter().any(|only| *only == full_name || only == line);
            let chosen = if options.only.is_empty() { !options.quick || case.quick } else { named };
            // The servers of the workspace have cases of their own, which no other can pass.
            if chosen && !case.is_about_workspace() {
                plan.push(Planned { line, case });
            }
        }
    }
    ensure!(
        !plan.is_empty(),
        "there is no case {}; --list shows all of them",
        options.only.join(", ")
    );
    Ok(plan)
}

/// Runs all cases, several at a time. Returns their outcomes in the order of the plan.
pub fn run(target: &Target, plan: &[Planned], options: &Options) -> Vec<Outcome> {
    let end = Instant::now() + options.time_limit();
    let mut queue: Vec<_> = plan.iter().copied().enumerate().collect();
    // Those that run alone come last, so that no other case waits for them.
    queue.sort_by_key(|(_, planned)| planned.case.exclusive);
    let queue: Mutex<VecDeque<_>> = Mutex::new(queue.into());
    let outcomes = Mutex::new(Vec::new());
    let bar = progress_bar(plan.len(), options);
    thread::scope(|scope| {
        for _ in 0..options.jobs(target) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((number, planned)) = next else { return };
                    bar.set_message(format!("{}::{}", planned.line, planned.case.name));
                    let outcome = run_case(target, planned, options, end);
                    bar.inc(1);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn run_case(target: &Target, planned: Planned, options: &Options, end: Instant) -> Outcome {
    let verdict = match planned.case.skip(target) {
        Some(Skip::DoesNotApply(reason) | Skip::Unavailable(reason)) => Verdict::Skipped(reason),
        None if Instant::now() >= end => Verdict::OutOfTime,
        None => {
            if options.trace {
                eprintln!("== {}::{}", planned.line, planned.case.name);
            }
            let left = end.saturating_duration_since(Instant::now());
            let limit = options.case_limit().min(left);
            let (result, time) = planned.case.check_within(target, options.timeout(), limit);
            let verdict = match result {
                Ok(()) => Verdict::Kept,
                Err(_) if limit == left && time >= limit => Verdict::OutOfTime,
                Err(error) => Verdict::NotKept(format!("{error:#}")),
            };
            return Outcome { planned, verdict, time };
        }
    };
    Outcome { planned, verdict, time: Duration::ZERO }
}

fn progress_bar(count: usize, options: &Options) -> ProgressBar {
    if options.trace {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(count as u64);
    // The template is a constant, and its test shows that it is right.
    if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} {bar:30} {pos}/{len} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
