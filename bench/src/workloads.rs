//! The workloads under which the subjects are measured.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::subjects::{POLLING, REFERENCE, Service, Subject};

/// A group of workloads, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 1 to 512 connections, all of them active
    Active,
    /// 1 and 64 active connections, with up to 5000 idle ones
    Idle,
    /// Messages of 16 KiB
    Large,
    /// The pause of nonblocking-echo: latency and idle CPU
    Pause,
    /// Chats of 100 and 1000 clients
    Chat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Each active connection always has a message in flight. The idle ones have sent one message
    /// at the start.
    Echo { active: usize, idle: usize, size: usize },
    /// One connection sends a message from time to time, and [`PAUSE_IDLE`] others are idle. The
    /// pause is in microseconds, for a subject that has one.
    Pause { pause: Option<u64> },
    /// A chat.
    Chat { clients: usize },
}

/// The usual size of a message.
pub const SMALL: usize = 64;
pub const LARGE: usize = 16 * 1024;
/// Idle connections in [`Workload::Pause`].
pub const PAUSE_IDLE: usize = 99;
/// Microseconds.
const PAUSES: &[u64] = &[0, 100, 300, 1000, 3000, 10_000];

/// Returns the workloads of the scenarios, each once, in the order of the report. No scenario
/// means all of them.
pub fn of_scenarios(scenarios: &[Scenario], quick: bool) -> Vec<Workload> {
    let has = |scenario| scenarios.is_empty() || scenarios.contains(&scenario);
    let mut workloads = Vec::new();
    if has(Scenario::Active) {
        for active in [1, 8, 64, 512] {
            workloads.push(Workload::Echo { active, idle: 0, size: SMALL });
        }
    }
    if has(Scenario::Idle) {
        for active in [1, 64] {
            for idle in [0, 100, 900, 5000] {
                // A quick run has no time for all of them.
                if !quick || active == 1 && idle != 100 {
                    workloads.push(Workload::Echo { active, idle, size: SMALL });
                }
            }
        }
    }
    if has(Scenario::Large) {
        for active in [8, 64] {
            workloads.push(Workload::Echo { active, idle: 0, size: LARGE });
        }
    }
    if has(Scenario::Pause) {
        workloads.push(Workload::Pause { pause: None });
        workloads.extend(PAUSES.iter().map(|&pause| Workload::Pause { pause: Some(pause) }));
    }
    if has(Scenario::Chat) {
        workloads.push(Workload::Chat { clients: 100 });
        workloads.push(Workload::Chat { clients: 1000 });
    }
    let mut unique = Vec::new();
    for workload in workloads {
        if !unique.contains(&workload) {
            unique.push(workload);
        }
    }
    unique
}

impl Workload {
    /// Returns the workload with this name, as [`fmt::Display`] writes it.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        let mut all = of_scenarios(&[], false).into_iter();
        let found = all.find(|workload| workload.to_string() == name);
        found.with_context(|| format!("there is no workload {name:?}"))
    }

    /// Whether the subject is measured under this workload.
    pub fn applies_to(self, subject: &Subject) -> bool {
        match self {
            Self::Echo { .. } => subject.service == Service::Echo,
            Self::Pause { pause: Some(_) } => subject.name == POLLING,
            Self::Pause { pause: None } => subject.name == REFERENCE,
            Self::Chat { .. } => subject.service == Service::Chat,
        }
    }

    /// The number of open connections.
    pub fn connections(self) -> usize {
        match self {
            Self::Echo { active, idle, .. } => active + idle,
            Self::Pause { .. } => 1 + PAUSE_IDLE,
            Self::Chat { clients } => clients,
        }
    }

    /// The second argument of the server: its pause in milliseconds.
    pub fn argument(self) -> Option<String> {
        match self {
            Self::Pause { pause: Some(pause) } => Some((pause as f64 / 1e3).to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Echo { active, idle, size } => {
                write!(f, "{active} active")?;
                if idle > 0 {
                    write!(f, " with {idle} idle")?;
                }
                if size == LARGE { write!(f, ", 16 KiB messages") } else { Ok(()) }
            }
            Self::Pause { pause: None } => write!(f, "occasional messages, no polling"),
            Self::Pause { pause: Some(pause) } => {
                write!(f, "occasional messages, pause {} ms", pause as f64 / 1e3)
            }
            Self::Chat { clients } => write!(f, "chat of {clients}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_name_of_its_own() {
        for workload in of_scenarios(&[], false) {
            assert_eq!(Workload::from_name(&workload.to_string()).ok(), Some(workload));
        }
        assert!(Workload::from_name("65 active").is_err());
    }
}
