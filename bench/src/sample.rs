//! One sample: a server, started for it, under one load.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::calls::Counter;
use crate::host::{Cores, Moment};
use crate::load::crowd::{self, Idle};
use crate::load::pattern::Pattern;
use crate::load::{Clients, PATIENCE, chat, echo};
use crate::points::{PAUSE_IDLE, Point, SMALL};
use crate::server::{Binaries, DoesNotStart, Server};
use crate::subjects::Subject;

/// How a sample is taken.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub cores: Cores,
    pub warm_up: Duration,
    pub time: Duration,
    /// The same for the messages beside which system calls are counted.
    pub counting: Duration,
    pub counter: Counter,
}

/// The share of a core that others may have, beyond which a sample is not believed. More in a
/// short sample: the kernel counts a core's idle time in hundredths of a second.
const TAKEN: f64 = 0.05;
const TICK: Duration = Duration::from_millis(10);

/// How long one message now and then is sent at least: some of them must come.
const NOW_AND_THEN: Duration = Duration::from_millis(400);
/// The time between two of those, on average.
const APART: Duration = Duration::from_millis(5);
/// Idle connections made before the memory is looked at for the first time: the first ones find
/// or make room for some more.
const FIRST: usize = 20;
/// The streams of idle connections are numbered from here on.
const IDLE_STREAMS: usize = 10_000;

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It counts.
    Ok,
    /// Somebody else had the cores for too long.
    Disturbed,
    /// The server did something wrong, or ended.
    Failed,
    /// The server cannot do this, or not here.
    Skipped,
}

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    pub round: usize,
    pub point: Point,
    pub server: &'static str,
    pub outcome: Outcome,
    /// Why it was skipped, or what failed.
    pub note: String,
    pub figures: Figures,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    pub seconds: f64,
    pub messages: u64,
    /// Microseconds of processor time for a message, over all threads and processes.
    pub cpu_us: Option<f64>,
    /// Of them in the process itself, from 0 to 1.
    pub user_share: Option<f64>,
    pub calls: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    /// Bytes for each idle connection.
    pub idle_memory: Option<f64>,
    /// The share of a core that is used while nothing happens.
    pub idle_cpu: Option<f64>,
    pub threads: Option<usize>,
    /// The shares of the time that the server and the load ran.
    pub server_ran: Option<f64>,
    pub load_ran: Option<f64>,
    /// The shares of their cores that neither they nor the idle task had.
    pub server_taken: Option<f64>,
    pub load_taken: Option<f64>,
}

impl Figures {
    /// Messages in a second, of a server that was kept busy.
    pub fn rate(&self) -> Option<f64> {
        self.cpu_us.is_some().then(|| self.messages as f64 / self.seconds)
    }

    /// The larger share that was taken of a core.
    pub fn taken(&self) -> f64 {
        self.server_taken.unwrap_or(0.0).max(self.load_taken.unwrap_or(0.0))
    }

    fn is_disturbed(&self) -> bool {
        self.taken() > TAKEN.max(1.5 * TICK.as_secs_f64() / self.seconds)
    }
}

/// A row of the raw samples.
#[derive(Debug, Serialize)]
struct Head {
    round: usize,
    load: String,
    server: &'static str,
    outcome: Outcome,
    note: String,
}

impl Sample {
    /// As a row of the raw samples.
    pub fn row(&self) -> impl Serialize {
        let Self { round, point, server, outcome, note, figures } = self.clone();
        (Head { round, load: point.to_string(), server, outcome, note }, figures)
    }

    /// A sample that is not there.
    pub fn skipped(round: usize, point: Point, subject: &Subject, note: String) -> Self {
        let (outcome, figures) = (Outcome::Skipped, Figures::default());
        Self { round, point, server: subject.name, outcome, note, figures }
    }

    /// Takes one. With `counting` the system calls are counted too, after the rest.
    pub fn take(
        round: usize,
        point: Point,
        subject: &'static Subject,
        binaries: &Binaries,
        method: Method,
        counting: bool,
    ) -> Self {
        let method =
            Method { counter: if counting { method.counter } else { Counter::Nothing }, ..method };
        let mut sample = Self::skipped(round, point, subject, String::new());
        let Some(path) = binaries.get(subject.name) else {
            "there is no such binary".clone_into(&mut sample.note);
            return sample;
        };
        match take(point, subject, path, method) {
            Ok(figures) => {
                let disturbed = figures.is_disturbed();
                sample.outcome = if disturbed { Outcome::Disturbed } else { Outcome::Ok };
                sample.figures = figures;
            }
            Err(error) => {
                let refused = subject.may_be_refused && error.is::<DoesNotStart>();
                sample.outcome = if refused { Outcome::Skipped } else { Outcome::Failed };
                sample.note = format!("{error:#}");
            }
        }
        sample
    }
}

fn take(point: Point, subject: &Subject, path: &Path, method: Method) -> Result<Figures> {
    let server = Server::start(path, point.argument().as_deref(), method.cores.server)?;
    match point {
        Point::Echo { active, idle, size } => {
            let (idle, idle_memory) = idle_connections(&server, idle)?;
            let shape =
                echo::Shape { connections: active, message: size, window: 1, patience: PATIENCE };
            let clients = Box::new(echo::Load::connect(server.addr, shape)?);
            let figures = measure(&server, subject, clients, method)?;
            idle.check()?;
            Ok(Figures { idle_memory, ..figures })
        }
        Point::Pause { .. } => now_and_then(&server, method),
        Point::Chat { clients } => {
            let shape = chat::Shape { clients, patience: PATIENCE };
            let clients = Box::new(chat::Load::connect(server.addr, shape)?);
            measure(&server, subject, clients, method)
        }
    }
}

/// Connections that are idle from now on, and what memory each of them takes.
fn idle_connections(server: &Server, count: usize) -> Result<(Idle, Option<f64>)> {
    let pattern = Pattern::new();
    let connect = |first: usize, count: usize| {
        crowd::connect(server.addr, &pattern, IDLE_STREAMS + first, count, PATIENCE)
    };
    let first = FIRST.min(count);
    let mut streams = connect(0, first)?;
    let before = server.tree()?.memory()?;
    streams.extend(connect(first, count - first)?);
    let memory = if count > first {
        let more = server.tree()?.memory()?.saturating_sub(before);
        Some(more as f64 / (count - first) as f64)
    } else {
        None
    };
    Ok((Idle::new(streams)?, memory))
}

fn measure(
    server: &Server,
    subject: &Subject,
    mut clients: Box<dyn Clients>,
    method: Method,
) -> Result<Figures> {
    let tree = server.tree()?;
    clients.run(method.warm_up)?;
    clients.take();

    let (start, before) = (Moment::now(method.cores)?, tree.used()?);
    clients.run(method.time)?;
    let (end, after) = (Moment::now(method.cores)?, tree.used()?);
    let tally = clients.take();
    let usage = end.since(start);
    let used = after.since(before);
    let share = |time: Duration| time.as_secs_f64() / usage.wall.as_secs_f64();
    let apart = !method.cores.shared();
    let mut figures = Figures {
        seconds: usage.wall.as_secs_f64(),
        messages: tally.messages,
        cpu_us: (tally.messages > 0).then(|| used.time.as_secs_f64() * 1e6 / tally.messages as f64),
        user_share: used.user_share(),
        p50_us: tally.quantile_us(0.5),
        p99_us: tally.quantile_us(0.99),
        p999_us: tally.quantile_us(0.999),
        threads: Some(tree.threads()?),
        server_ran: Some(share(used.time)),
        load_ran: Some(share(usage.load)),
        server_taken: apart.then(|| usage.taken_from_server(used.time, used.slices)),
        load_taken: apart.then(|| usage.taken_from_load()),
        ..Figures::default()
    };

    // What never rests cannot be counted by strace: it counts what comes before the work, too.
    if !(subject.spins && method.counter == Counter::Strace) {
        clients.drain()?;
        clients.take();
        let mut worked = Ok(());
        let calls = method.counter.count(&tree.pids(), || {
            worked = clients.run(method.counting).and_then(|()| clients.drain());
        });
        worked?;
        // That nothing can be counted is no fault of the server's.
        let messages = clients.take().messages as f64;
        figures.calls = calls.ok().flatten().map(|calls| calls as f64 / messages);
    }
    clients.finish()?;
    Ok(figures)
}

/// How late the answers of a server come that looks only now and then, and what it costs that
/// nobody says anything.
fn now_and_then(server: &Server, method: Method) -> Result<Figures> {
    let time = method.time.max(NOW_AND_THEN);
    let (idle, _) = idle_connections(server, PAUSE_IDLE)?;
    let tree = server.tree()?;

    let (start, before) = (Moment::now(method.cores)?, tree.used()?);
    thread::sleep(time / 2);
    let (end, after) = (Moment::now(method.cores)?, tree.used()?);
    let usage = end.since(start);
    let used = after.since(before);

    let shape = echo::Shape { connections: 1, message: SMALL, window: 1, patience: PATIENCE };
    let tally = echo::now_and_then(server.addr, shape, APART, time)?;
    idle.check()?;
    let apart = !method.cores.shared();
    Ok(Figures {
        seconds: usage.wall.as_secs_f64(),
        messages: tally.messages,
        p50_us: tally.quantile_us(0.5),
        p99_us: tally.quantile_us(0.99),
        p999_us: tally.quantile_us(0.999),
        idle_cpu: Some(used.time.as_secs_f64() / usage.wall.as_secs_f64()),
        threads: Some(tree.threads()?),
        server_taken: apart.then(|| usage.taken_from_server(used.time, used.slices)),
        ..Figures::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects;

    const POINT: Point = Point::Echo { active: 1, idle: 0, size: SMALL };

    /// A sample of a subject whose binary is this one.
    fn sample(name: &str, binary: &str) -> Sample {
        let subject = subjects::find(name).expect("it is in the table");
        let binaries = Binaries::from([(name.to_owned(), binary.into())]);
        let cores = Cores::choose().expect("a core");
        let time = Duration::from_millis(10);
        let counter = Counter::Nothing;
        let method = Method { cores, warm_up: time, time, counting: time, counter };
        Sample::take(1, POINT, subject, &binaries, method, false)
    }

    #[test]
    fn a_server_that_does_not_start_has_failed() {
        let sample = sample("epoll-echo", "/bin/false");
        assert_eq!(sample.outcome, Outcome::Failed);
        assert!(sample.note.contains("does not start"), "{}", sample.note);
    }

    #[test]
    fn a_server_that_the_kernel_refuses_is_skipped() {
        assert_eq!(sample("uring-echo", "/bin/false").outcome, Outcome::Skipped);
    }

    #[test]
    fn a_server_that_says_where_it_listens_and_does_not_has_failed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server");
        let script = "#!/bin/sh\necho liar listening on 127.0.0.1:1\nsleep 10\n";
        std::fs::write(&path, script).expect("it can be written");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("it is ours");
        let sample = sample("epoll-echo", &path.to_string_lossy());
        assert_eq!(sample.outcome, Outcome::Failed);
        assert!(sample.note.contains("cannot connect"), "{}", sample.note);
    }
}
