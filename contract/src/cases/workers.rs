//! For servers with several workers: event loops in threads, or processes. Each design gives a new
//! connection to another worker. A worker that is busy or ends affects its own clients only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::accept::Burst;
use crate::case::{Case, Need};
use crate::client::connect_many;
use crate::target::Spread;
use crate::workers::{Stopped, Worker, Workers, cannot_stop};
use crate::{Client, Server, Target, timeout, usage, wait_until};

const OTHER: &str = "the server distributes its connections in another way, or has one loop";

const PROCESSES: Need = Need::Property(
    |target| target.properties.worker_processes,
    "the server has no worker processes that it replaces",
);

pub const CASES: &[Case] = &[
    Case::new("in_turn", "the workers get the connections in turn (FIFO)", in_turn).needs(&[
        Need::Process,
        Need::Property(|target| target.properties.spread == Some(Spread::InTurn), OTHER),
    ]),
    Case::new("by_hash", "every worker gets some of many connections", by_hash).needs(&[
        Need::Process,
        Need::Property(|target| target.properties.spread == Some(Spread::ByHash), OTHER),
    ]),
    Case::new(
        "first_idle",
        "while all workers are idle, the same one gets each connection",
        first_idle,
    )
    .needs(&[
        Need::Process,
        Need::Property(|target| target.properties.spread == Some(Spread::FirstIdle), OTHER),
    ]),
    Case::new(
        "fewest",
        "the worker with the fewest connections gets the next one, also after some have closed",
        fewest,
    )
    .needs(&[
        Need::Process,
        Need::Property(|target| target.properties.spread == Some(Spread::Fewest), OTHER),
    ]),
    Case::new(
        "stopped_worker",
        "while one worker does nothing, the others accept and serve clients",
        stopped_worker,
    )
    .needs(&[
        Need::Process,
        Need::Property(
            |target| target.properties.spread.is_some(),
            "the server has one worker, or a worker per client",
        ),
        Need::Machine(cannot_stop),
    ]),
    Case::new(
        "killed_worker",
        "a worker process that is killed loses its own client only, and is replaced",
        killed_worker,
    )
    .needs(&[Need::Process, PROCESSES]),
    Case::new(
        "workers_end_at_once",
        "if each new worker ends at once, the server does not fork in a busy loop",
        workers_end_at_once,
    )
    .needs(&[Need::Process, PROCESSES]),
    Case::new(
        "killed_parent",
        "if the parent is killed, none of its workers is left",
        killed_parent,
    )
    .needs(&[Need::Process, PROCESSES]),
];

/// The server with three workers, if their number is an argument. Few, so that a case takes few
/// clients.
fn few_workers(target: &Target) -> Target {
    if target.argument().is_none() {
        return target.clone();
    }
    let mut few = target.with_argument("3");
    if few.properties.worker_processes {
        few.properties.max_concurrent = 3;
    }
    few
}

type Counts = BTreeMap<Worker, usize>;

fn count(serving: impl IntoIterator<Item = Worker>) -> Counts {
    let mut counts = Counts::new();
    for worker in serving {
        *counts.entry(worker).or_default() += 1;
    }
    counts
}

/// Checks that each of the workers got as many connections.
fn expect_even(counts: &Counts, workers: &Workers, each: usize) -> Result<()> {
    ensure!(
        counts.len() == workers.count() && counts.values().all(|count| *count == each),
        "{} workers have {each} connections each in this design, and these got {counts:?}",
        workers.count()
    );
    Ok(())
}

fn in_turn(target: &Target) -> Result<()> {
    const EACH: usize = 4;
    few_workers(target).launch().serve(|server| {
        let workers = Workers::of(server)?;
        let mut serving = Vec::new();
        for seed in 0..EACH * workers.count() {
            let client = [workers.connect(seed as u64)?];
            serving.extend(workers.serving(&client)?);
            client.into_iter().try_for_each(Client::finish)?;
        }
        expect_even(&count(serving), &workers, EACH)
    })
}

/// A hash can give a worker no connection at all. That it happens here has a probability of less
/// than one in a billion.
fn by_hash(target: &Target) -> Result<()> {
    const CLIENTS: u64 = 60;
    few_workers(target).launch().serve(|server| {
        let workers = Workers::of(server)?;
        let clients: Vec<_> =
            (0..CLIENTS).map(|seed| workers.connect(seed)).collect::<Result<_>>()?;
        let counts = count(workers.serving(&clients)?);
        ensure!(
            counts.len() == workers.count(),
            "only {} of {} workers got connections: {counts:?}",
            counts.len(),
            workers.count()
        );
        Ok(())
    })
}

fn first_idle(target: &Target) -> Result<()> {
    const CLIENTS: u64 = 20;
    few_workers(target).launch().serve(|server| {
        let workers = Workers::of(server)?;
        let clients: Vec<_> =
            (0..CLIENTS).map(|seed| workers.connect(seed)).collect::<Result<_>>()?;
        let counts = count(workers.serving(&clients)?);
        ensure!(counts.len() == 1, "several workers got connections: {counts:?}");
        Ok(())
    })
}

fn fewest(target: &Target) -> Result<()> {
    const EACH: usize = 8;
    few_workers(target).launch().serve(|server| {
        let workers = Workers::of(server)?;
        let connect = |count: usize| -> Result<Vec<_>> {
            (0..count as u64).map(|seed| workers.connect(seed)).collect()
        };
        let mut clients = connect(EACH * workers.count())?;
        let serving = workers.serving(&clients)?;
        expect_even(&count(serving.iter().copied()), &workers, EACH)?;

        // All clients of one worker leave. So the same number of new ones goes to it.
        let first = serving.first().copied();
        let mut serving = serving.into_iter();
        let (leave, stay): (Vec<_>, Vec<_>) =
            clients.drain(..).partition(|_| serving.next() == first);
        leave.into_iter().try_for_each(Client::finish)?;
        let mut clients = stay;
        clients.extend(connect(EACH)?);
        let counts = count(workers.serving(&clients)?);
        expect_even(&counts, &workers, EACH).context("after the clients of one worker had left")
    })
}

/// Each worker in turn does nothing: it is stopped, as if a handler computed for a long time.
fn stopped_worker(target: &Target) -> Result<()> {
    /// So many that a quarter goes to the other workers, also if a hash decides.
    const CLIENTS: usize = 40;
    let target = few_workers(target);
    let count = target.properties.max_concurrent.min(CLIENTS);
    target.launch().serve(|server| {
        let workers = Workers::of(server)?;
        for worker in workers.threads() {
            // Not while it logs a line: it would then hold the lock of the log.
            workers.wait_until_idle()?;
            let stopped = Stopped::new(*worker)?;
            let mut burst = Burst::connect(server, count)?;
            burst.expect((count / 4).max(1), false).context("while one worker is stopped")?;
            let served = burst.served.iter().try_for_each(|client| client.exchange(1));
            served.context("a client of another worker, while one is stopped")?;
            drop(stopped);
            let waiting = burst.waiting.len();
            burst.expect(waiting, false).context("after the worker has continued")?;
        }
        Ok(())
    })
}

/// The processes of the server, without the one that was started, and without zombies.
fn worker_processes(server: &Server) -> Result<Vec<Pid>> {
    let leader = server.pid()?;
    let mut workers = Vec::new();
    for process in usage::children(leader)? {
        let is_zombie = process.stat().is_ok_and(|stat| stat.state == 'Z');
        workers.extend(Pid::from_raw(process.pid()).filter(|_| !is_zombie));
    }
    Ok(workers)
}

/// All workers have a client, so a new client needs the replacement.
fn killed_worker(target: &Target) -> Result<()> {
    let target = few_workers(target);
    target.launch().serve(|server| {
        let clients = connect_many(server, target.properties.max_concurrent.min(3))?;
        let killed = worker_processes(server)?.first().copied().context("there is no worker")?;
        kill_process(killed, Signal::KILL)?;
        wait_until("the killed worker to be replaced", timeout(), || {
            let workers = worker_processes(server)?;
            Ok((workers.len() == clients.len() && !workers.contains(&killed)).then_some(()))
        })?;
        let lost = clients.iter().filter(|client| client.exchange(1).is_err()).count();
        ensure!(lost == 1, "{lost} clients lost their connection with the killed worker");
        let new = Client::connect(server)?;
        new.exchange(2).context("a new client, after a worker was killed")
    })
}

/// The case kills each worker as soon as it sees it.
fn workers_end_at_once(target: &Target) -> Result<()> {
    const TIME: Duration = Duration::from_secs(1);
    /// So many new workers within so short a time are a busy loop. Three of them may be the
    /// replacements of earlier ones, which the case saw late.
    const MANY: usize = 9;
    const SHORT: Duration = Duration::from_millis(400);
    few_workers(target).launch().serve(|server| {
        let count = worker_processes(server)?.len();
        let (mut seen, mut times) = (BTreeSet::new(), Vec::new());
        let start = Instant::now();
        while start.elapsed() < TIME {
            for worker in worker_processes(server)? {
                let _ = kill_process(worker, Signal::KILL); // it fails if the worker has ended
                if seen.insert(worker.as_raw_nonzero()) {
                    times.push(start.elapsed());
                }
            }
            // The first ones were there before.
            let new = times.get(count..).unwrap_or_default();
            let busy = new.windows(MANY).find(|new| new[MANY - 1].saturating_sub(new[0]) < SHORT);
            ensure!(busy.is_none(), "the server started {MANY} workers within {SHORT:?}");
        }
        // A killed worker can still accept a connection, before it ends.
        wait_until("the last workers to be replaced", timeout(), || {
            let workers = worker_processes(server)?;
            let is_old = workers.iter().any(|it| seen.contains(&it.as_raw_nonzero()));
            Ok((workers.len() == count && !is_old).then_some(()))
        })?;
        Client::connect(server)?.exchange(1).context("after many workers were killed")
    })
}

fn killed_parent(target: &Target) -> Result<()> {
    few_workers(target).launch().serve(|server| {
        let client = Client::connect(server)?;
        client.exchange(1)?;
        server.signal(Signal::KILL)?;
        server.wait(timeout())?;
        server.wait_for_children(timeout()).context("after the parent was killed")?;
        ensure!(client.drain()?, "the connection of a client did not end");
        Ok(())
    })
}
