//! Which samples are taken, in which order, and how long that takes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::host::Cores;
use crate::measure::{Method, measure, time_of};
use crate::sample::{Figures, Outcome, Row, Sample};
use crate::server::Binaries;
use crate::subjects::Subject;
use crate::syscalls::Counter;
use crate::terminal::print_line;
use crate::workloads::Workload;

/// How often a disturbed sample is repeated.
pub const MAX_REPEATS: usize = 2;
/// System calls are counted in this many rounds, because counting takes extra time. A count varies
/// less than a time, but it does vary: a server that wakes up later finds more to do.
const COUNTED_ROUNDS: usize = 3;
/// All repeats together may take this fraction of the planned time: a quarter.
const REPEATS_FRACTION: u32 = 4;
/// File descriptors that server and clients each need for other things than connections.
const OTHER_DESCRIPTORS: usize = 64;
/// The estimated time of a sample besides the measurement, and of each of its connections.
const START_TIME: Duration = Duration::from_millis(120);
const CONNECTION_TIME: Duration = Duration::from_micros(100);

pub struct Plan {
    pub subjects: Vec<&'static Subject>,
    pub workloads: Vec<Workload>,
    pub rounds: usize,
    pub method: Method,
    /// The limit on file descriptors.
    pub descriptors: usize,
}

/// One sample to take.
#[derive(Clone, Copy)]
struct Turn {
    round: usize,
    workload: Workload,
    subject: &'static Subject,
}

impl Method {
    /// Many short samples are taken rather than a few long ones: what changes over time is then
    /// the same for all servers of a round, and an outlier does not change the median of nine
    /// rounds.
    pub fn new(quick: bool, cores: Cores, counter: Counter) -> Self {
        let [warm_up, time, counting] = if quick { [50, 120, 20] } else { [100, 300, 100] };
        let [warm_up, time, counting] = [warm_up, time, counting].map(Duration::from_millis);
        Self { cores, warm_up, time, counting, counter }
    }
}

impl Plan {
    /// Takes all samples, and writes each to the file at `path` at once, so that an interrupted
    /// run keeps what it has measured.
    ///
    /// Within a round, and under each workload, the servers take turns.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn take_samples(&self, binaries: &Binaries, path: &Path) -> Result<Vec<Sample>> {
        let mut file = csv::Writer::from_path(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let turns = self.turns();
        let total: Duration = turns.iter().map(|turn| self.cost(turn)).sum();
        print_line(&format!("{} samples, about {}", turns.len(), HumanDuration(total)));
        let bar = ProgressBar::new(total.as_millis() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {prefix} left  {wide_msg}")?);
        let mut samples = Vec::new();
        let mut time_for_repeats = total / REPEATS_FRACTION;
        for turn in turns {
            let Turn { round, workload, subject } = turn;
            let left = if bar.position() == 0 { total } else { bar.eta() };
            bar.set_prefix(HumanDuration(left).to_string());
            bar.set_message(format!("{} · {workload} · round {round}", subject.name));
            bar.tick();
            let taken = self.take_with_repeats(turn, binaries, &mut time_for_repeats);
            for sample in &taken {
                file.serialize(Row::from(sample))?;
            }
            file.flush()?;
            samples.extend(taken);
            bar.inc(self.cost(&turn).as_millis() as u64);
        }
        bar.finish_and_clear();
        Ok(samples)
    }

    fn turns(&self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for round in 1..=self.rounds {
            for &workload in &self.workloads {
                let subjects = self.subjects.iter().filter(|subject| workload.applies_to(subject));
                turns.extend(subjects.map(|&subject| Turn { round, workload, subject }));
            }
        }
        turns
    }

    /// Takes a sample, and repeats it while it is disturbed. Returns all attempts.
    fn take_with_repeats(
        &self,
        turn: Turn,
        binaries: &Binaries,
        time_for_repeats: &mut Duration,
    ) -> Vec<Sample> {
        if let Some(reason) = self.skip_reason(&turn) {
            return vec![turn.sample(Outcome::Skipped, reason)];
        }
        let cost = self.cost(&turn);
        let mut samples = Vec::new();
        for attempt in 0..=MAX_REPEATS {
            let counts = turn.round <= COUNTED_ROUNDS && attempt == 0;
            let counter = if counts { self.method.counter } else { Counter::None };
            let sample = turn.take(binaries, Method { counter, ..self.method });
            let outcome = sample.outcome;
            samples.push(sample);
            if outcome != Outcome::Disturbed || *time_for_repeats < cost {
                break;
            }
            *time_for_repeats -= cost;
        }
        samples
    }

    fn skip_reason(&self, turn: &Turn) -> Option<String> {
        let connections = turn.workload.connections();
        let limit = turn.subject.max_connections;
        let cores = turn.workload.needed_cores();
        if let Some(reason) = (turn.subject.unavailable)() {
            Some(reason.to_owned())
        } else if cores > self.method.cores.count {
            Some(format!("needs {cores} cores"))
        } else if connections > limit && !turn.workload.connections_end() {
            Some(format!("max {limit}"))
        } else if connections + OTHER_DESCRIPTORS > self.descriptors {
            Some(format!("the limit on file descriptors is {} here", self.descriptors))
        } else {
            None
        }
    }

    fn cost(&self, turn: &Turn) -> Duration {
        if self.skip_reason(turn).is_some() {
            return Duration::ZERO;
        }
        let passes = match turn.workload {
            _ if turn.round > COUNTED_ROUNDS => 0,
            Workload::Compute { .. } | Workload::Pause { .. } => 0,
            // In one pass the calls are counted, in the other one they are recorded.
            Workload::Churn { .. } => 3,
            _ => 1,
        };
        let counting = (self.method.counting + START_TIME) * passes;
        // Each client of a chat receives a line about each later one.
        let announcements = match turn.workload {
            Workload::Chat { clients } => clients * clients / 50,
            _ => 0,
        };
        START_TIME
            + self.method.warm_up
            + time_of(turn.workload, &self.method)
            + counting
            + CONNECTION_TIME * (turn.workload.connections() + announcements) as u32
    }
}

impl Turn {
    fn take(&self, binaries: &Binaries, method: Method) -> Sample {
        let Some(path) = binaries.get(self.subject.name) else {
            return self.sample(Outcome::Failed, "there is no such binary".to_owned());
        };
        match measure(self.workload, self.subject, path, method) {
            Ok(figures) => Sample { figures, ..self.sample(figures.outcome(), String::new()) },
            Err(error) => self.sample(Outcome::Failed, format!("{error:#}")),
        }
    }

    fn sample(&self, outcome: Outcome, note: String) -> Sample {
        Sample {
            round: self.round,
            workload: self.workload,
            server: self.subject.name,
            outcome,
            note,
            figures: Figures::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects;
    use crate::workloads::{SMALL, Scenario, of_scenarios};

    fn plan(quick: bool) -> Plan {
        let cores = Cores { server: 0, clients: 0, count: 2 };
        Plan {
            subjects: subjects::all().iter().collect(),
            workloads: of_scenarios(&[], quick),
            rounds: 1,
            method: Method::new(quick, cores, Counter::None),
            descriptors: 20_000,
        }
    }

    /// Takes a sample of a subject, with another program in place of its binary.
    fn sample(name: &str, binary: &Path) -> Sample {
        let subject = subjects::find(name).expect("the subject exists");
        let workload = Workload::Echo { active: 1, idle: 0, size: SMALL };
        let cores = Cores::choose().expect("there is a core");
        let time = Duration::from_millis(10);
        let counter = Counter::None;
        let method = Method { cores, warm_up: time, time, counting: time, counter };
        let binaries = Binaries::from([(name.to_owned(), binary.to_owned())]);
        Turn { round: 1, workload, subject }.take(&binaries, method)
    }

    #[test]
    fn a_server_that_does_not_start_has_failed() {
        let sample = sample("epoll-echo", Path::new("/bin/false"));
        assert_eq!(sample.outcome, Outcome::Failed);
        assert!(sample.note.contains("does not start"), "{}", sample.note);
    }

    #[test]
    fn a_server_that_announces_an_address_and_does_not_listen_has_failed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("server");
        let script = "#!/bin/sh\necho liar listening on 127.0.0.1:1\nsleep 10\n";
        std::fs::write(&path, script).expect("it can be written");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("it can be made executable");
        let sample = sample("epoll-echo", &path);
        assert_eq!(sample.outcome, Outcome::Failed);
        assert!(sample.note.contains("cannot connect"), "{}", sample.note);
    }

    #[test]
    fn what_cannot_be_measured_is_skipped_with_the_reason() {
        static NEEDS_MORE: Subject = Subject {
            package: "",
            name: "needs-more",
            service: subjects::Service::Echo,
            origin: subjects::Origin::Catalog,
            max_connections: 10,
            polls: false,
            unavailable: || Some("io_uring is disabled"),
            baseline: None,
            workers: subjects::Workers::Fixed,
            look: 0,
        };
        let turn = |subject, active| {
            let workload = Workload::Echo { active, idle: 0, size: SMALL };
            Turn { round: 1, workload, subject }
        };
        let plan = plan(true);
        let skip_reason = |subject, active| plan.skip_reason(&turn(subject, active));
        assert_eq!(skip_reason(&NEEDS_MORE, 1).as_deref(), Some("io_uring is disabled"));
        let iterative = subjects::find("blocking-echo-iterative").expect("the subject exists");
        assert_eq!(skip_reason(iterative, 1), None);
        assert_eq!(skip_reason(iterative, 8).as_deref(), Some("max 1"));
        let epoll = subjects::find("epoll-echo").expect("the subject exists");
        let reason = skip_reason(epoll, 30_000).expect("there are not enough descriptors");
        assert!(reason.contains("20000"), "{reason}");
    }

    #[test]
    fn the_scenarios_about_workers_take_less_than_a_quarter_of_an_hour() {
        let workloads = of_scenarios(&Scenario::ABOUT_WORKERS, false);
        let plan = Plan { workloads, rounds: 9, ..plan(false) };
        let total: Duration = plan.turns().iter().map(|turn| plan.cost(turn)).sum();
        assert!(total < Duration::from_secs(15 * 60), "it takes about {total:?}");
    }

    #[test]
    fn a_quick_run_takes_the_time_that_the_help_states() {
        let plan = plan(true);
        let total: Duration = plan.turns().iter().map(|turn| plan.cost(turn)).sum();
        let stated = Duration::from_secs(crate::QUICK_MINUTES * 60);
        assert!(total > stated / 2 && total < stated, "it takes about {total:?}");
    }
}
