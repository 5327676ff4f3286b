//! From samples to figures: medians over the rounds, ratios within a round.

use std::collections::BTreeSet;

use statrs::statistics::{Data, OrderStatistics};

use crate::points::Point;
use crate::sample::{Figures, Outcome, Sample};
use crate::subjects::{REFERENCE, Subject};

/// The median, and between what the middle half of the values lies.
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
        let (lower, upper) = (data.lower_quartile(), data.upper_quartile());
        Some(Self { median: data.median(), lower, upper })
    }
}

/// What is known of a subject under a load.
#[derive(Debug)]
pub enum Cell {
    Measured(Box<Measured>),
    /// Nothing is averaged from what is wrong.
    Failed,
    Skipped(String),
}

/// Medians over the rounds.
#[derive(Debug)]
pub struct Measured {
    /// Somebody else had a core for too long in every sample there is.
    pub disturbed: bool,
    /// Processor time against the reference's in the same round.
    pub ratio: Option<Spread>,
    /// System calls a message, in the good samples and in the others.
    pub calls: Option<f64>,
    samples: Vec<Figures>,
}

impl Measured {
    /// The median of one figure.
    pub fn median(&self, figure: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        Spread::of(self.samples.iter().filter_map(figure).collect()).map(|spread| spread.median)
    }
}

/// All samples.
#[derive(Debug, Default)]
pub struct Summary {
    samples: Vec<Sample>,
}

impl Summary {
    pub fn new(samples: Vec<Sample>) -> Self {
        Self { samples }
    }

    /// How many samples were disturbed, and of how many.
    pub fn disturbed(&self) -> (usize, usize) {
        let taken = self.samples.iter().filter(|sample| sample.outcome != Outcome::Skipped);
        let disturbed = taken.clone().filter(|sample| sample.outcome == Outcome::Disturbed);
        (disturbed.count(), taken.count())
    }

    /// The subjects that failed, with what and under which load, each once.
    pub fn failures(&self) -> Vec<String> {
        self.notes(Outcome::Failed)
    }

    /// What was left out, and why, each once.
    pub fn skipped(&self) -> Vec<String> {
        self.notes(Outcome::Skipped)
    }

    fn notes(&self, outcome: Outcome) -> Vec<String> {
        let samples = self.samples.iter().filter(|sample| sample.outcome == outcome);
        let notes: BTreeSet<_> = samples
            .map(|sample| format!("{} ({}): {}", sample.server, sample.point, sample.note))
            .collect();
        notes.into_iter().collect()
    }

    /// None where it was not tried.
    pub fn cell(&self, point: Point, subject: &Subject) -> Option<Cell> {
        let samples: Vec<_> = self.of(point, subject.name).collect();
        if samples.iter().any(|sample| sample.outcome == Outcome::Failed) {
            return Some(Cell::Failed);
        }
        if let Some(skipped) = samples.iter().find(|sample| sample.outcome == Outcome::Skipped) {
            return Some(Cell::Skipped(skipped.note.clone()));
        }
        let disturbed = samples.iter().all(|sample| sample.outcome == Outcome::Disturbed);
        let wanted = if disturbed { Outcome::Disturbed } else { Outcome::Ok };
        let calls = samples.iter().filter_map(|sample| sample.figures.calls).collect();
        let calls = Spread::of(calls).map(|spread| spread.median);
        let samples: Vec<_> = samples.iter().filter(|sample| sample.outcome == wanted).collect();
        if samples.is_empty() {
            return None;
        }
        let ratios = samples.iter().filter_map(|sample| self.ratio(sample, point, REFERENCE));
        let ratio = Spread::of(ratios.collect());
        let samples = samples.iter().map(|sample| sample.figures).collect();
        Some(Cell::Measured(Box::new(Measured { disturbed, ratio, calls, samples })))
    }

    /// What was measured of it, if it was.
    pub fn measured(&self, point: Point, subject: &Subject) -> Option<Measured> {
        match self.cell(point, subject) {
            Some(Cell::Measured(measured)) => Some(*measured),
            _ => None,
        }
    }

    /// Its processor time under a load against that of another server, or under another load.
    /// None where there is no round in which both are good.
    pub fn against(&self, point: Point, name: &str, other: (Point, &str)) -> Option<Spread> {
        let good = self.of(point, name).filter(|sample| sample.outcome == Outcome::Ok);
        Spread::of(good.filter_map(|sample| self.ratio(sample, other.0, other.1)).collect())
    }

    fn of(&self, point: Point, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.point == point && sample.server == name)
    }

    /// Against the reference's in the same round; a good sample only against a good one.
    fn ratio(&self, sample: &Sample, point: Point, reference: &str) -> Option<f64> {
        let mut references = self.of(point, reference);
        let reference = references.find(|reference| {
            reference.round == sample.round
                && (reference.outcome == Outcome::Ok || reference.outcome == sample.outcome)
        })?;
        Some(sample.figures.cpu_us? / reference.figures.cpu_us?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects;

    const POINT: Point = Point::Echo { active: 64, idle: 0, size: 64 };

    fn sample(round: usize, server: &'static str, outcome: Outcome, cpu_us: f64) -> Sample {
        let figures = Figures { cpu_us: Some(cpu_us), ..Figures::default() };
        Sample { round, point: POINT, server, outcome, note: String::new(), figures }
    }

    fn cell(samples: Vec<Sample>) -> Cell {
        let subject = subjects::find("poll-echo").expect("it is in the table");
        Summary::new(samples).cell(POINT, subject).expect("it was tried")
    }

    #[test]
    fn takes_ratios_within_a_round() {
        use Outcome::{Disturbed, Ok};
        // The machine is twice as slow in the second round, and disturbed once.
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
    fn compares_loads_within_a_round() {
        let beside = Point::Echo { active: 64, idle: 900, size: 64 };
        let idle = |round, cpu_us| Sample {
            point: beside,
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
        let growth = summary.against(beside, REFERENCE, (POINT, REFERENCE)).expect("two rounds");
        assert!((growth.lower - 1.1).abs() < 1e-9 && (growth.upper - 1.1).abs() < 1e-9);
        assert_eq!(summary.against(beside, "poll-echo", (POINT, REFERENCE)), None);
    }

    #[test]
    fn averages_nothing_from_a_server_that_failed_once() {
        let samples = vec![
            sample(0, "poll-echo", Outcome::Ok, 12.0),
            sample(1, "poll-echo", Outcome::Failed, 0.0),
        ];
        assert!(matches!(cell(samples), Cell::Failed));
    }

    #[test]
    fn says_so_where_every_sample_was_disturbed() {
        let samples = vec![sample(0, "poll-echo", Outcome::Disturbed, 12.0)];
        let Cell::Measured(measured) = cell(samples) else { panic!("it was measured") };
        assert!(measured.disturbed && measured.ratio.is_none());
    }
}
