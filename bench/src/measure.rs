//! Takes a sample: starts a server, puts it under a workload, and measures it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::clients::connections::{self, Idle};
use crate::clients::pattern::Pattern;
use crate::clients::{Clients, TIMEOUT, chat, echo};
use crate::host::{CoreClocks, Cores};
use crate::sample::Figures;
use crate::server::Server;
use crate::subjects::Subject;
use crate::syscalls::Counter;
use crate::workloads::{PAUSE_IDLE, SMALL, Workload};

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
    let server = Server::start(path, workload.argument().as_deref(), method.cores.server)?;
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
            let figures = measure_busy(&server, subject, clients, method)?;
            idle.check()?;
            Ok(Figures { idle_memory, ..figures })
        }
        Workload::Pause { .. } => measure_occasional(&server, method),
        Workload::Chat { clients } => {
            let settings = chat::Settings { clients, timeout: TIMEOUT };
            let clients = Box::new(chat::ChatClients::connect(server.addr, settings)?);
            measure_busy(&server, subject, clients, method)
        }
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
) -> Result<Figures> {
    let processes = server.processes()?;
    clients.run(method.warm_up)?;
    clients.take();

    let clocks_before = CoreClocks::now(method.cores)?;
    let cpu_before = processes.cpu_usage()?;
    clients.run(method.time)?;
    let cores = CoreClocks::now(method.cores)?.since(clocks_before);
    let cpu = processes.cpu_usage()?.since(cpu_before);
    let tally = clients.take();
    let share = |time: Duration| time.as_secs_f64() / cores.wall.as_secs_f64();
    let cpu_us = cpu.time.as_secs_f64() * 1e6;
    let separate = !method.cores.are_shared();
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
    clients.finish()?;
    Ok(figures)
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
