//! Under which load the subjects are measured.

use std::fmt;

use clap::ValueEnum;

use crate::subjects::{PAUSING, REFERENCE, Service, Subject};

/// A group of points, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 1 to 512 connections, all of them busy
    Active,
    /// 1 and 64 busy connections beside up to 5000 idle ones
    Idle,
    /// Messages of 16 KiB
    Large,
    /// The pause of nonblocking-echo against latency and idle CPU
    Pause,
    /// Rooms of 100 and 1000 clients
    Chat,
}

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Connections that each have a message on its way all the time, beside others that have
    /// said something once and are silent since.
    Echo { active: usize, idle: usize, size: usize },
    /// One connection that says something now and then, and as many that do not; with the pause
    /// in microseconds, where the subject takes one.
    Pause { pause: Option<u64> },
    /// A room.
    Chat { clients: usize },
}

/// The usual size of a message.
pub const SMALL: usize = 64;
pub const LARGE: usize = 16 * 1024;
/// Idle connections beside the one that is measured with a pause.
pub const PAUSE_IDLE: usize = 99;
/// Microseconds.
const PAUSES: &[u64] = &[0, 100, 300, 1000, 3000, 10_000];

/// The points of the scenarios, each once, in the order of the report.
pub fn plan(scenarios: &[Scenario], quick: bool) -> Vec<Point> {
    let has = |scenario| scenarios.is_empty() || scenarios.contains(&scenario);
    let mut points = Vec::new();
    if has(Scenario::Active) {
        for active in [1, 8, 64, 512] {
            points.push(Point::Echo { active, idle: 0, size: SMALL });
        }
    }
    if has(Scenario::Idle) {
        for active in [1, 64] {
            for idle in [0, 100, 900, 5000] {
                // In a minute there is no time for all of them.
                if !quick || active == 1 && idle != 100 {
                    points.push(Point::Echo { active, idle, size: SMALL });
                }
            }
        }
    }
    if has(Scenario::Large) {
        points.push(Point::Echo { active: 8, idle: 0, size: LARGE });
    }
    if has(Scenario::Pause) {
        points.push(Point::Pause { pause: None });
        points.extend(PAUSES.iter().map(|&pause| Point::Pause { pause: Some(pause) }));
    }
    if has(Scenario::Chat) {
        points.push(Point::Chat { clients: 100 });
        points.push(Point::Chat { clients: 1000 });
    }
    let mut seen = Vec::new();
    points.retain(|point| !seen.contains(point) && (seen.push(*point), true).1);
    points
}

impl Point {
    /// Whether the point means something for the subject.
    pub fn concerns(self, subject: &Subject) -> bool {
        match self {
            Self::Echo { .. } => subject.service == Service::Echo,
            Self::Pause { pause: Some(_) } => subject.name == PAUSING,
            Self::Pause { pause: None } => subject.name == REFERENCE,
            Self::Chat { .. } => subject.service == Service::Chat,
        }
    }

    /// Connections open while it is measured.
    pub fn connections(self) -> usize {
        match self {
            Self::Echo { active, idle, .. } => active + idle,
            Self::Pause { .. } => 1 + PAUSE_IDLE,
            Self::Chat { clients } => clients,
        }
    }

    /// The pause as the subject takes it, in milliseconds.
    pub fn argument(self) -> Option<String> {
        match self {
            Self::Pause { pause: Some(pause) } => Some((pause as f64 / 1e3).to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Echo { active, idle, size } => {
                write!(f, "{active} active")?;
                if idle > 0 {
                    write!(f, " beside {idle} idle")?;
                }
                if size == LARGE { write!(f, ", 16 KiB messages") } else { Ok(()) }
            }
            Self::Pause { pause: None } => write!(f, "1 now and then, no pause to set"),
            Self::Pause { pause: Some(pause) } => {
                write!(f, "1 now and then, pause {} ms", pause as f64 / 1e3)
            }
            Self::Chat { clients } => write!(f, "chat of {clients}"),
        }
    }
}
