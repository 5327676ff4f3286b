//! Takes a sample: starts a server, puts it under a workload, and measures it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::clients::connections::{self, Idle};
use crate::clients::parallel::ParallelClients;
use crate::clients::pattern::Pattern;
use crate::clients::{Clients, TIMEOUT, chat, churn, compute, echo};
use crate::host::{CoreClocks, Cores};
use crate::sample::Figures;
use crate::server::Server;
use crate::subjects::{Subject, Workers};
use crate::syscalls::Counter;
use crate::workloads::{PAUSE_IDLE, PER_CORE, SMALL, Workload};

/// How a sample is taken.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub cores: Cores,
    pub warm_up: Duration,
    pub time: Duration,
    /// How long system calls are counted, which is done after the rest.
    pub counting: Duration,
    pub counter: Counter,
}

/// The shortest time for which occasional messages are sent, so that there are enough of them.
const MIN_OCCASIONAL_TIME: Duration = Duration::from_millis(400);
/// The average time between two of them.
const OCCASIONAL_PAUSE: Duration = Duration::from_millis(5);
/// How much longer a sample is while a client computes, so that there are enough lines. Each of
/// them may take as long as a computation.
const COMPUTE_FACTOR: u32 = 3;
/// The average time between two lines in a chat in which a client computes.
const LINE_PAUSE: Duration = Duration::from_millis(4);
/// Idle connections that are opened before memory is measured for the first time: the server's
/// tables grow in steps.
const UNMEASURED_IDLE: usize = 20;
/// The number of the first idle connection's stream.
const IDLE_STREAMS: usize = 10_000;

/// Measures the server at `path`.
///
/// # Errors
/// Fails if the server does not start, ends, or does something wrong.
pub fn measure(
    workload: Workload,
    subject: &Subject,
    path: &Path,
    method: Method,
) -> Result<Figures> {
    let arguments = workload.arguments(subject);
    let server_cores = method.cores.for_server(workload.server_cores());
    let server = Server::start(path, &arguments, server_cores)?;
    match workload {
        Workload::Echo { active, idle, size } => {
            let (idle, idle_memory) = open_idle(&server, idle)?;
            let settings = echo::Settings {
                connections: active,
                message_size: size,
                window: 1,
                timeout: TIMEOUT,
            };
            let clients = Box::new(echo::EchoClients::connect(server.addr, settings)?);
            let figures = measure_busy(&server, subject, clients, method, workload)?;
            idle.check()?;
            Ok(Figures { idle_memory, ..figures })
        }
        Workload::Pause { .. } => measure_occasional(&server, method),
        Workload::Chat { clients } => {
            let settings = chat::Settings { clients, timeout: TIMEOUT };
            let clients = Box::new(chat::ChatClients::connect(server.addr, settings)?);
            measure_busy(&server, subject, clients, method, workload)
        }
        Workload::Churn { at_once } => {
            let settings = churn::Settings { at_once, message_size: SMALL, timeout: TIMEOUT };
            let clients = Box::new(churn::ChurnClients::new(server.addr, settings)?);
            measure_busy(&server, subject, clients, method, workload)
        }
        Workload::Cores { cores, .. } => {
            let settings = echo::Settings {
                connections: PER_CORE,
                message_size: SMALL,
                window: 1,
                timeout: TIMEOUT,
            };
            let connect = || echo::EchoClients::connect(server.addr, settings);
            let clients: Box<dyn Clients> = if cores == 1 {
                Box::new(connect()?)
            } else {
                let groups = method.cores.for_clients(cores).into_iter();
                let groups: Result<Vec<_>> = groups.map(|core| Ok((core, connect()?))).collect();
                Box::new(ParallelClients::new(groups?))
            };
            measure_busy(&server, subject, clients, method, workload)
        }
        Workload::Compute { milliseconds, .. } => {
            measure_computing(&server, milliseconds, method, workload)
        }
    }
}

/// How long the measurement itself takes.
pub fn time_of(workload: Workload, method: &Method) -> Duration {
    match workload {
        Workload::Compute { .. } => method.time * COMPUTE_FACTOR,
        _ => method.time,
    }
}

/// Opens idle connections. Also returns the memory that each of them takes.
fn open_idle(server: &Server, count: usize) -> Result<(Idle, Option<f64>)> {
    let pattern = Pattern::new();
    let connect = |first: usize, count: usize| {
        connections::connect(server.addr, &pattern, IDLE_STREAMS + first, count, TIMEOUT)
    };
    let unmeasured = UNMEASURED_IDLE.min(count);
    let mut streams = connect(0, unmeasured)?;
    let before = server.processes()?.memory()?;
    streams.extend(connect(unmeasured, count - unmeasured)?);
    let memory = if count > unmeasured {
        let added = server.processes()?.memory()?.saturating_sub(before);
        Some(added as f64 / (count - unmeasured) as f64)
    } else {
        None
    };
    Ok((Idle::new(streams)?, memory))
}

/// Measures a server that the clients keep busy.
fn measure_busy(
    server: &Server,
    subject: &Subject,
    mut clients: Box<dyn Clients>,
    method: Method,
    workload: Workload,
) -> Result<Figures> {
    let processes = server.processes()?;
    clients.run(method.warm_up)?;
    clients.take();

    let clocks_before = CoreClocks::now(method.cores)?;
    let threads_before = processes.thread_times()?;
    let cpu_before = processes.cpu_usage()?;
    clients.run(method.time)?;
    let cores = CoreClocks::now(method.cores)?.since(clocks_before);
    let mut cpu = processes.cpu_usage()?.since(cpu_before);
    let threads_after = processes.thread_times()?;
    let tally = clients.take();
    let share = |time: Duration| time.as_secs_f64() / cores.wall.as_secs_f64();
    let mut separate = !method.cores.are_shared();
    if matches!(workload, Workload::Churn { .. }) && subject.workers == Workers::PerConnection {
        // The clocks of processes that have ended can no longer be read. But nothing else runs on
        // this core, if it is not shared.
        if separate {
            cpu.time = cores.server_busy();
        }
        separate = false;
    }
    // The clocks are those of one core each.
    separate &= workload.server_cores() == 1;
    let cpu_us = cpu.time.as_secs_f64() * 1e6;
    let mut figures = Figures {
        seconds: cores.wall.as_secs_f64(),
        messages: tally.messages,
        cpu_us: (tally.messages > 0).then(|| cpu_us / tally.messages as f64),
        user_share: cpu.user_share(),
        p50_us: tally.quantile_us(0.5),
        p99_us: tally.quantile_us(0.99),
        p999_us: tally.quantile_us(0.999),
        threads: Some(processes.threads()?),
        server_cpu: Some(share(cpu.time)),
        clients_cpu: Some(share(cores.clients)),
        server_core_other: separate.then(|| cores.server_core_other(cpu.time, cpu.slices)),
        clients_core_other: separate.then(|| cores.clients_core_other()),
        ..Figures::default()
    };
    if matches!(workload, Workload::Cores { .. }) {
        let used = threads_after.iter().map(|(thread, after)| {
            let before = threads_before.get(thread).copied().unwrap_or_default();
            after.saturating_sub(before).as_secs_f64()
        });
        figures.busiest = busiest_share(used);
    }

    // strace also counts the calls before the work, so it cannot count for a server that polls.
    if !(subject.polls && method.counter == Counter::Strace) {
        clients.drain()?;
        clients.take();
        let mut result = Ok(());
        let calls = method.counter.count(&processes.pids(), || {
            result = clients.run(method.counting).and_then(|()| clients.drain());
        });
        result?;
        // An error of the counter is not an error of the server.
        let messages = clients.take().messages;
        let calls = calls.ok().flatten().filter(|_| messages > 0);
        figures.calls = calls.map(|calls| calls as f64 / messages as f64);
    }
    if matches!(workload, Workload::Churn { .. }) {
        let mut result = Ok(());
        let accepts = method.counter.trace(&processes.pids(), || {
            result = clients.run(method.counting).and_then(|()| clients.drain());
        });
        result?;
        let messages = clients.take().messages;
        if let Some(accepts) = accepts.ok().flatten().filter(|_| messages > 0) {
            figures.in_vain = Some(accepts.in_vain as f64 / messages as f64);
            // A thread that serves one connection serves nothing else.
            if subject.workers != Workers::PerConnection {
                figures.busiest = busiest_share(accepts.closed.iter().map(|&count| count as f64));
            }
        }
    }
    clients.finish()?;
    Ok(figures)
}

/// Returns the share of the largest number in the sum.
fn busiest_share(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (largest, sum) =
        values.fold((0.0, 0.0), |(largest, sum), value| (f64::max(largest, value), sum + value));
    (sum > 0.0).then(|| largest / sum)
}

/// Measures the latency of lines while another client keeps the server computing.
fn measure_computing(
    server: &Server,
    milliseconds: u64,
    method: Method,
    workload: Workload,
) -> Result<Figures> {
    let settings = compute::Settings { milliseconds, pause: LINE_PAUSE, timeout: TIMEOUT };
    let mut clients = compute::ComputeClients::connect(server.addr, settings)?;
    let processes = server.processes()?;
    let mut measured = Vec::new();
    let results = clients.run(time_of(workload, &method), || {
        measured.push((CoreClocks::now(method.cores)?, processes.cpu_usage()?));
        Ok(())
    })?;
    let [(clocks_before, cpu_before), (clocks, cpu)] = measured[..] else {
        bail!("the clients did not measure twice");
    };
    let cores = clocks.since(clocks_before);
    let cpu = cpu.since(cpu_before);
    let seconds = cores.wall.as_secs_f64();
    let tally = results.lines;
    let separate = !method.cores.are_shared() && workload.server_cores() == 1;
    Ok(Figures {
        seconds,
        messages: tally.messages,
        p50_us: tally.quantile_us(0.5),
        p99_us: tally.quantile_us(0.99),
        p999_us: tally.quantile_us(0.999),
        threads: Some(processes.threads()?),
        server_cpu: Some(cpu.time.as_secs_f64() / seconds),
        server_core_other: separate.then(|| cores.server_core_other(cpu.time, cpu.slices)),
        computations: Some(results.computations as f64 / seconds),
        ..Figures::default()
    })
}

/// Measures the latency of occasional messages, and the CPU time while no client sends anything.
fn measure_occasional(server: &Server, method: Method) -> Result<Figures> {
    let time = method.time.max(MIN_OCCASIONAL_TIME);
    let (idle, _) = open_idle(server, PAUSE_IDLE)?;
    let processes = server.processes()?;

    let clocks_before = CoreClocks::now(method.cores)?;
    let cpu_before = processes.cpu_usage()?;
    thread::sleep(time / 2);
    let cores = CoreClocks::now(method.cores)?.since(clocks_before);
    let cpu = processes.cpu_usage()?.since(cpu_before);

    let settings =
        echo::Settings { connections: 1, message_size: SMALL, window: 1, timeout: TIMEOUT };
    let tally = echo::run_occasional(server.addr, settings, OCCASIONAL_PAUSE, time)?;
    idle.check()?;
    let separate = !method.cores.are_shared();
    Ok(Figures {
        seconds: cores.wall.as_secs_f64(),
        messages: tally.messages,
        p50_us: tally.quantile_us(0.5),
        p99_us: tally.quantile_us(0.99),
        p999_us: tally.quantile_us(0.999),
        idle_cpu: Some(cpu.time.as_secs_f64() / cores.wall.as_secs_f64()),
        threads: Some(processes.threads()?),
        server_core_other: separate.then(|| cores.server_core_other(cpu.time, cpu.slices)),
        ..Figures::default()
    })
}
