//! The workloads under which the subjects are measured.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::subjects::{POLLING, REFERENCE, Service, Subject, Workers};

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
    /// Connections that are closed after one message
    Churn,
    /// Several loops, on one core and on as many cores as the machine has for them
    Cores,
    /// A chat in which one client makes the server compute
    Compute,
}

impl Scenario {
    /// Those that show how a server distributes connections and work.
    pub const ABOUT_WORKERS: [Self; 3] = [Self::Churn, Self::Cores, Self::Compute];
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
    /// Each client connects, sends one message, and closes the connection when the message has come
    /// back. So many clients do this at a time.
    Churn { at_once: usize },
    /// [`PER_CORE`] active connections for each core of the server. The server has so many loops.
    Cores { loops: usize, cores: usize },
    /// In a chat, one client keeps the server computing, for so many milliseconds at a time. Another
    /// client sends a line from time to time.
    Compute { milliseconds: u64, cores: usize },
}

/// The usual size of a message.
pub const SMALL: usize = 64;
pub const LARGE: usize = 16 * 1024;
/// Idle connections in [`Workload::Pause`].
pub const PAUSE_IDLE: usize = 99;
/// Active connections in [`Workload::Cores`], for each core.
pub const PER_CORE: usize = 64;
/// The clients in [`Workload::Compute`]: one computes, one sends, and one receives.
const COMPUTE_CLIENTS: usize = 3;
/// The workers of a server that can have several, where the number of cores does not say it.
pub const WORKERS: usize = 4;
/// Microseconds.
const PAUSES: &[u64] = &[0, 100, 300, 1000, 3000, 10_000];

/// Returns the workloads of the scenarios, each once, in the order of the report. No scenario
/// means those about what a message costs. The others have a page of their own.
pub fn of_scenarios(scenarios: &[Scenario], quick: bool) -> Vec<Workload> {
    let is_usual = |scenario| !Scenario::ABOUT_WORKERS.contains(&scenario);
    let has = |scenario| match scenarios {
        [] => is_usual(scenario),
        _ => scenarios.contains(&scenario),
    };
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
    if has(Scenario::Churn) {
        workloads.push(Workload::Churn { at_once: 64 });
        if !quick {
            workloads.push(Workload::Churn { at_once: 1 });
        }
    }
    if has(Scenario::Cores) {
        workloads.push(Workload::Cores { loops: 1, cores: 1 });
        workloads.push(Workload::Cores { loops: WORKERS, cores: 1 });
        let several = [2, 4, 8, 16].map(|cores| Workload::Cores { loops: cores, cores });
        workloads.extend(several);
    }
    if has(Scenario::Compute) {
        for cores in [1, 2] {
            for milliseconds in [0, 1, 10] {
                // A quick run has no time for all of them.
                if !quick || milliseconds == 10 {
                    workloads.push(Workload::Compute { milliseconds, cores });
                }
            }
        }
    }
    let mut unique = Vec::new();
    for workload in workloads {
        if !unique.contains(&workload) {
            unique.push(workload);
        }
    }
    unique
}

/// Returns all workloads in the order of the report.
pub fn all() -> Vec<Workload> {
    of_scenarios(Scenario::value_variants(), false)
}

impl Workload {
    /// Returns the workload with this name, as [`fmt::Display`] writes it.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = all().into_iter().find(|workload| workload.to_string() == name);
        found.with_context(|| format!("there is no workload {name:?}"))
    }

    /// Whether the subject is measured under this workload.
    pub fn applies_to(self, subject: &Subject) -> bool {
        match self {
            Self::Echo { .. } => subject.service == Service::Echo,
            Self::Pause { pause: Some(_) } => subject.name == POLLING,
            Self::Pause { pause: None } => subject.name == REFERENCE,
            Self::Chat { .. } | Self::Compute { .. } => subject.service == Service::Chat,
            Self::Churn { .. } => subject.is_churned(),
            // The loops are those of the argument, or one per core.
            Self::Cores { loops, cores } => {
                let has_argument = matches!(subject.workers, Workers::Argument(_));
                let has_as_many = has_argument || loops == cores;
                subject.name == REFERENCE || subject.has_loops() && has_as_many
            }
        }
    }

    /// The number of open connections.
    pub fn connections(self) -> usize {
        match self {
            Self::Echo { active, idle, .. } => active + idle,
            Self::Pause { .. } => 1 + PAUSE_IDLE,
            Self::Chat { clients } => clients,
            Self::Churn { at_once } => at_once,
            Self::Cores { cores, .. } => PER_CORE * cores,
            Self::Compute { .. } => COMPUTE_CLIENTS,
        }
    }

    /// Whether a server that serves few connections at a time can serve these all the same: each of
    /// them is closed soon, so the next one has to wait, but not for long.
    pub fn connections_end(self) -> bool {
        matches!(self, Self::Churn { .. })
    }

    /// Whether it shows how a server distributes connections and work, and not what a message costs.
    pub fn is_about_workers(self) -> bool {
        matches!(self, Self::Churn { .. } | Self::Cores { .. } | Self::Compute { .. })
    }

    /// The number of cores on which the server runs.
    pub fn server_cores(self) -> usize {
        match self {
            Self::Cores { cores, .. } | Self::Compute { cores, .. } => cores,
            _ => 1,
        }
    }

    /// The number of cores that the machine must have.
    pub fn needed_cores(self) -> usize {
        match self {
            // The clients cost as much as the server, and must not be the limit.
            Self::Cores { cores, .. } if cores > 1 => 2 * cores,
            // These clients wait most of the time.
            Self::Compute { cores, .. } => cores,
            _ => 1,
        }
    }

    /// The arguments of the server after its address: its pause in milliseconds, or the number of
    /// its workers.
    pub fn arguments(self, subject: &Subject) -> Vec<String> {
        let workers = match self {
            Self::Pause { pause: Some(pause) } => return vec![(pause as f64 / 1e3).to_string()],
            Self::Churn { .. } | Self::Compute { .. } => WORKERS,
            Self::Cores { loops, .. } => loops,
            _ => return Vec::new(),
        };
        let Workers::Argument(before) = subject.workers else { return Vec::new() };
        let before = before.iter().map(ToString::to_string);
        before.chain([workers.to_string()]).collect()
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
            Self::Churn { at_once } => write!(f, "short connections, {at_once} at a time"),
            Self::Cores { loops, cores } => {
                let plural = |count| if count == 1 { "" } else { "s" };
                let (s, t) = (plural(loops), plural(cores));
                write!(f, "{loops} loop{s} on {cores} core{t}")
            }
            Self::Compute { milliseconds, cores } => {
                write!(f, "computations of {milliseconds} ms, {cores} core")?;
                if cores == 1 { Ok(()) } else { write!(f, "s") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_name_of_its_own() {
        for workload in all() {
            assert_eq!(Workload::from_name(&workload.to_string()).ok(), Some(workload));
        }
        assert!(Workload::from_name("65 active").is_err());
    }
}
