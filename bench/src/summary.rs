//! From samples to figures: medians over the rounds, and ratios within a round.

use std::collections::BTreeSet;

use statrs::statistics::{Data, OrderStatistics};

use crate::sample::{Figures, Outcome, Sample};
use crate::subjects::{REFERENCE, Subject};
use crate::workloads::Workload;

/// A median, and the quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub lower: f64,
    pub upper: f64,
}

impl Spread {
    fn of(values: Vec<f64>) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mut data = Data::new(values);
        let lower = data.lower_quartile();
        let upper = data.upper_quartile();
        Some(Self { median: data.median(), lower, upper })
    }
}

/// What is known about a subject under a workload.
#[derive(Debug)]
pub enum Cell {
    Measured(Box<Measured>),
    /// At least one sample failed. Then no figure is shown.
    Failed,
    Skipped(String),
}

/// Medians over the rounds.
#[derive(Debug)]
pub struct Measured {
    /// Other processes used a core for too long in every sample.
    pub disturbed: bool,
    /// CPU time, divided by that of the reference in the same round.
    pub ratio: Option<Spread>,
    /// Messages per second, divided by those of the reference in the same round.
    pub rate_ratio: Option<Spread>,
    /// System calls per message, in all samples.
    pub calls: Option<f64>,
    /// As [`Figures::busiest`] and [`Figures::in_vain`], in all samples.
    pub busiest: Option<f64>,
    pub in_vain: Option<f64>,
    samples: Vec<Figures>,
}

impl Measured {
    /// Returns the median of one figure.
    pub fn median(&self, figure: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        Spread::of(self.samples.iter().filter_map(figure).collect()).map(|spread| spread.median)
    }
}

type Figure = fn(&Figures) -> Option<f64>;

#[derive(Debug, Default)]
pub struct Summary {
    samples: Vec<Sample>,
}

impl Summary {
    pub fn new(samples: Vec<Sample>) -> Self {
        Self { samples }
    }

    /// Whether there is a sample of this server.
    pub fn has_server(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.server == name)
    }

    /// Whether there is a sample under this workload.
    pub fn has_workload(&self, workload: Workload) -> bool {
        self.samples.iter().any(|sample| sample.workload == workload)
    }

    /// Returns how many samples were disturbed, and how many were taken.
    pub fn disturbed(&self) -> (usize, usize) {
        let taken = self.samples.iter().filter(|sample| sample.outcome != Outcome::Skipped);
        let disturbed = taken.clone().filter(|sample| sample.outcome == Outcome::Disturbed);
        (disturbed.count(), taken.count())
    }

    /// Returns the subjects that failed, with the workload and the reason, each once.
    pub fn failures(&self) -> Vec<String> {
        self.notes(Outcome::Failed)
    }

    /// Returns what was skipped and why, each once.
    pub fn skipped(&self) -> Vec<String> {
        self.notes(Outcome::Skipped)
    }

    fn notes(&self, outcome: Outcome) -> Vec<String> {
        let samples = self.samples.iter().filter(|sample| sample.outcome == outcome);
        let notes: BTreeSet<_> = samples
            .map(|sample| format!("{} ({}): {}", sample.server, sample.workload, sample.note))
            .collect();
        notes.into_iter().collect()
    }

    /// Returns `None` if there is no sample.
    pub fn cell(&self, workload: Workload, subject: &Subject) -> Option<Cell> {
        let samples: Vec<_> = self.of(workload, subject.name).collect();
        if samples.iter().any(|sample| sample.outcome == Outcome::Failed) {
            return Some(Cell::Failed);
        }
        if let Some(skipped) = samples.iter().find(|sample| sample.outcome == Outcome::Skipped) {
            return Some(Cell::Skipped(skipped.note.clone()));
        }
        let disturbed = samples.iter().all(|sample| sample.outcome == Outcome::Disturbed);
        let wanted = if disturbed { Outcome::Disturbed } else { Outcome::Ok };
        // Other processes do not change what is counted.
        let counted = |figure: fn(&Figures) -> Option<f64>| {
            let values = samples.iter().filter_map(|sample| figure(&sample.figures)).collect();
            Spread::of(values).map(|spread| spread.median)
        };
        let calls = counted(|figures| figures.calls);
        let busiest = counted(|figures| figures.busiest);
        let in_vain = counted(|figures| figures.in_vain);
        let samples: Vec<_> = samples.iter().filter(|sample| sample.outcome == wanted).collect();
        if samples.is_empty() {
            return None;
        }
        let against_reference = |figure: Figure| {
            let ratio = |sample: &&&Sample| self.ratio(sample, (workload, REFERENCE), figure);
            Spread::of(samples.iter().filter_map(ratio).collect())
        };
        let ratio = against_reference(|figures| figures.cpu_us);
        let rate_ratio = against_reference(Figures::rate);
        let samples = samples.iter().map(|sample| sample.figures).collect();
        let measured = Measured { disturbed, ratio, rate_ratio, calls, busiest, in_vain, samples };
        Some(Cell::Measured(Box::new(measured)))
    }

    /// Returns the figures of a subject under a workload, if it was measured.
    pub fn measured(&self, workload: Workload, subject: &Subject) -> Option<Measured> {
        match self.cell(workload, subject) {
            Some(Cell::Measured(measured)) => Some(*measured),
            _ => None,
        }
    }

    /// Returns the CPU time of a server under a workload, divided by that of another server, or
    /// under another workload, in the same round. Only undisturbed samples count.
    pub fn ratio_to(
        &self,
        workload: Workload,
        name: &str,
        other: (Workload, &str),
    ) -> Option<Spread> {
        let ok = self.of(workload, name).filter(|sample| sample.outcome == Outcome::Ok);
        let ratios = ok.filter_map(|sample| self.ratio(sample, other, |figures| figures.cpu_us));
        Spread::of(ratios.collect())
    }

    fn of(&self, workload: Workload, name: &str) -> impl Iterator<Item = &Sample> {
        let is_wanted =
            move |sample: &&Sample| sample.workload == workload && sample.server == name;
        self.samples.iter().filter(is_wanted)
    }

    /// Divides a figure of a sample by that of another server in the same round. An undisturbed
    /// sample is only compared with an undisturbed one.
    fn ratio(&self, sample: &Sample, other: (Workload, &str), figure: Figure) -> Option<f64> {
        let mut others = self.of(other.0, other.1);
        let other = others.find(|other| {
            other.round == sample.round
                && (other.outcome == Outcome::Ok || other.outcome == sample.outcome)
        })?;
        Some(figure(&sample.figures)? / figure(&other.figures)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects;

    const WORKLOAD: Workload = Workload::Echo { active: 64, idle: 0, size: 64 };

    fn sample(round: usize, server: &'static str, outcome: Outcome, cpu_us: f64) -> Sample {
        let figures = Figures { cpu_us: Some(cpu_us), ..Figures::default() };
        Sample { round, workload: WORKLOAD, server, outcome, note: String::new(), figures }
    }

    fn cell(samples: Vec<Sample>) -> Cell {
        let subject = subjects::find("poll-echo").expect("the subject exists");
        Summary::new(samples).cell(WORKLOAD, subject).expect("there are samples")
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        use Outcome::{Disturbed, Ok};
        // The machine is half as fast in the second round, and disturbed once.
        let samples = vec![
            sample(0, REFERENCE, Ok, 10.0),
            sample(0, "poll-echo", Ok, 12.0),
            sample(1, REFERENCE, Ok, 20.0),
            sample(1, "poll-echo", Disturbed, 90.0),
            sample(1, "poll-echo", Ok, 26.0),
            sample(2, REFERENCE, Disturbed, 50.0),
            sample(2, "poll-echo", Ok, 12.0),
        ];
        let Cell::Measured(measured) = cell(samples) else { panic!("it was measured") };
        assert!(!measured.disturbed);
        assert_eq!(measured.median(|figures| figures.cpu_us), Some(12.0));
        let ratio = measured.ratio.expect("two rounds have both");
        assert!((ratio.median - 1.25).abs() < 1e-9, "{ratio:?}");
        assert!(1.2 <= ratio.lower && ratio.upper <= 1.3, "{ratio:?}");
    }

    #[test]
    fn workloads_are_compared_within_a_round() {
        let with_idle = Workload::Echo { active: 64, idle: 900, size: 64 };
        let idle = |round, cpu_us| Sample {
            workload: with_idle,
            ..sample(round, REFERENCE, Outcome::Ok, cpu_us)
        };
        let summary = Summary::new(vec![
            sample(0, REFERENCE, Outcome::Ok, 10.0),
            idle(0, 11.0),
            sample(1, REFERENCE, Outcome::Ok, 20.0),
            idle(1, 22.0),
            sample(2, REFERENCE, Outcome::Disturbed, 10.0),
            idle(2, 50.0),
        ]);
        let growth = summary.ratio_to(with_idle, REFERENCE, (WORKLOAD, REFERENCE));
        let growth = growth.expect("two rounds have both");
        assert!((growth.lower - 1.1).abs() < 1e-9 && (growth.upper - 1.1).abs() < 1e-9);
        assert_eq!(summary.ratio_to(with_idle, "poll-echo", (WORKLOAD, REFERENCE)), None);
    }

    #[test]
    fn a_server_that_failed_once_has_no_figures() {
        let samples = vec![
            sample(0, "poll-echo", Outcome::Ok, 12.0),
            sample(1, "poll-echo", Outcome::Failed, 0.0),
        ];
        assert!(matches!(cell(samples), Cell::Failed));
    }

    #[test]
    fn a_figure_from_disturbed_samples_only_is_marked() {
        let samples = vec![sample(0, "poll-echo", Outcome::Disturbed, 12.0)];
        let Cell::Measured(measured) = cell(samples) else { panic!("it was measured") };
        assert!(measured.disturbed && measured.ratio.is_none());
    }
}
