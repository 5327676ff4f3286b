//! A sample: what was measured of one server under one workload in one round.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::subjects;
use crate::workloads::Workload;

/// If other processes used more than this share of a core, a sample counts as disturbed. More is
/// tolerated in a short sample, because the kernel counts idle time in clock ticks.
const MAX_OTHER: f64 = 0.05;
/// Seconds.
const TICK: f64 = 0.01;

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Other processes used the cores for too long.
    Disturbed,
    /// The server did something wrong, or ended.
    Failed,
    /// The server cannot run under this workload, or not on this machine.
    Skipped,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub round: usize,
    pub workload: Workload,
    pub server: &'static str,
    pub outcome: Outcome,
    /// Why it was skipped, or what failed.
    pub note: String,
    pub figures: Figures,
}

/// The figures of a sample.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub seconds: f64,
    pub messages: u64,
    /// Microseconds of CPU time per message, of all threads and processes of the server.
    pub cpu_us: Option<f64>,
    /// The share of it that was spent in user mode.
    pub user_share: Option<f64>,
    /// System calls per message.
    pub calls: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    /// Bytes per idle connection.
    pub idle_memory: Option<f64>,
    /// The share of a core that the server uses while no client sends anything.
    pub idle_cpu: Option<f64>,
    pub threads: Option<usize>,
    /// The share of the time in which the server ran, and in which the clients ran.
    pub server_cpu: Option<f64>,
    pub clients_cpu: Option<f64>,
    /// The share of the server's core, and of the clients' core, that other processes used.
    pub server_core_other: Option<f64>,
    pub clients_core_other: Option<f64>,
    /// The share of the thread or process that had the most to do: of the connections, if these are
    /// short, and else of the CPU time.
    pub busiest: Option<f64>,
    /// How often a thread woke up and found nothing to accept, per connection.
    pub in_vain: Option<f64>,
    /// `/factor` commands per second.
    pub computations: Option<f64>,
}

impl Figures {
    /// Messages per second, if the server was kept busy.
    pub fn rate(&self) -> Option<f64> {
        self.cpu_us.is_some().then(|| self.messages as f64 / self.seconds)
    }

    /// The outcome of a sample in which nothing went wrong.
    pub fn outcome(&self) -> Outcome {
        let server = self.server_core_other.unwrap_or(0.0);
        let clients = self.clients_core_other.unwrap_or(0.0);
        let tolerated = MAX_OTHER.max(1.5 * TICK / self.seconds);
        if server.max(clients) > tolerated { Outcome::Disturbed } else { Outcome::Ok }
    }
}

/// A row of `samples.csv`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    round: usize,
    workload: String,
    server: String,
    outcome: Outcome,
    note: String,
    seconds: f64,
    messages: u64,
    cpu_us: Option<f64>,
    user_share: Option<f64>,
    calls: Option<f64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    p999_us: Option<f64>,
    idle_memory: Option<f64>,
    idle_cpu: Option<f64>,
    threads: Option<usize>,
    server_cpu: Option<f64>,
    clients_cpu: Option<f64>,
    server_core_other: Option<f64>,
    clients_core_other: Option<f64>,
    busiest: Option<f64>,
    in_vain: Option<f64>,
    computations: Option<f64>,
}

impl From<&Sample> for Row {
    fn from(sample: &Sample) -> Self {
        let figures = sample.figures;
        Self {
            round: sample.round,
            workload: sample.workload.to_string(),
            server: sample.server.to_owned(),
            outcome: sample.outcome,
            note: sample.note.clone(),
            seconds: figures.seconds,
            messages: figures.messages,
            cpu_us: figures.cpu_us,
            user_share: figures.user_share,
            calls: figures.calls,
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            p999_us: figures.p999_us,
            idle_memory: figures.idle_memory,
            idle_cpu: figures.idle_cpu,
            threads: figures.threads,
            server_cpu: figures.server_cpu,
            clients_cpu: figures.clients_cpu,
            server_core_other: figures.server_core_other,
            clients_core_other: figures.clients_core_other,
            busiest: figures.busiest,
            in_vain: figures.in_vain,
            computations: figures.computations,
        }
    }
}

impl TryFrom<Row> for Sample {
    type Error = anyhow::Error;

    fn try_from(row: Row) -> Result<Self> {
        let subject = subjects::find(&row.server);
        let subject = subject.with_context(|| format!("there is no server {:?}", row.server))?;
        Ok(Self {
            round: row.round,
            workload: Workload::from_name(&row.workload)?,
            server: subject.name,
            outcome: row.outcome,
            note: row.note,
            figures: Figures {
                seconds: row.seconds,
                messages: row.messages,
                cpu_us: row.cpu_us,
                user_share: row.user_share,
                calls: row.calls,
                p50_us: row.p50_us,
                p99_us: row.p99_us,
                p999_us: row.p999_us,
                idle_memory: row.idle_memory,
                idle_cpu: row.idle_cpu,
                threads: row.threads,
                server_cpu: row.server_cpu,
                clients_cpu: row.clients_cpu,
                server_core_other: row.server_core_other,
                clients_core_other: row.clients_core_other,
                busiest: row.busiest,
                in_vain: row.in_vain,
                computations: row.computations,
            },
        })
    }
}

/// Reads `samples.csv`.
///
/// # Errors
/// Fails if the file cannot be read, or names a server or workload that does not exist.
pub fn read_all(path: &Path) -> Result<Vec<Sample>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let mut samples = Vec::new();
    for (index, row) in csv::Reader::from_reader(file).deserialize::<Row>().enumerate() {
        let sample = row.map_err(anyhow::Error::from).and_then(Sample::try_from);
        // The first line is the header.
        samples.push(sample.with_context(|| format!("{}, line {}", path.display(), index + 2))?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_survives_writing_and_reading() {
        let figures = Figures {
            seconds: 0.3,
            messages: 1000,
            cpu_us: Some(6.5),
            threads: Some(1),
            ..Figures::default()
        };
        let sample = Sample {
            round: 2,
            workload: Workload::Chat { clients: 100 },
            server: "reactor-chat",
            outcome: Outcome::Disturbed,
            note: "a, \"note\"".to_owned(),
            figures,
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("samples.csv");
        let mut file = csv::Writer::from_path(&path).expect("it can be created");
        file.serialize(Row::from(&sample)).expect("it can be written");
        drop(file);
        let read = read_all(&path).expect("it can be read");
        assert_eq!(format!("{read:?}"), format!("{:?}", [sample]));
    }
}
