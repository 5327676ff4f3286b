//! A client for which the model has no space is refused with a log line and a close, or waits for
//! its turn. No client hangs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use procfs::Current;
use rustix::process::{Resource, getrlimit};

use super::accept::Burst;
use super::start;
use crate::case::{Case, MANY_DESCRIPTORS, Need, ROOT};
use crate::client::{Reply, connect_idle};
use crate::server::Launch;
use crate::{Client, Server, Target, Transfer, binaries, filter, timeout, transfer, wait_until};

pub const CASES: &[Case] = &[
    Case::new(
        "refuses_surplus",
        "clients beyond the limit are refused, and the others are still served",
        refuses_surplus,
    )
    .needs(&[
        Need::Process,
        Need::Property(
            |target| {
                target.properties.fd_setsize.is_some() || target.properties.max_clients.is_some()
            },
            "the server has no limit beyond which it refuses clients",
        ),
        MANY_DESCRIPTORS,
    ])
    .exclusive(),
    Case::new(
        "surplus_waits",
        "clients beyond the limit are served as soon as others disconnect",
        surplus_waits,
    )
    .needs(&[Need::Property(
        |target| target.properties.max_concurrent < usize::MAX,
        "the server has no limit beyond which clients wait",
    )])
    .quick(),
    Case::new(
        "short_signal_queue",
        "no data is lost if the kernel can queue only 16 signals",
        short_signal_queue,
    )
    .needs(&[
        Need::Process,
        Need::Property(|target| target.properties.uses_signals, "the server does not use signals"),
    ]),
    Case::new(
        "most_threads",
        "the server refuses a client before it has more threads than the kernel allows",
        most_threads,
    )
    .needs(&[
        Need::Workspace,
        Need::Property(
            |target| target.properties.max_threads.is_some(),
            "the server has no thread per client",
        ),
        MANY_THREADS,
    ])
    .exclusive(),
    FEW_THREADS,
    NO_STACKS,
    NO_ADDRESS_SPACE,
];

/// For the case with as many threads as a process may have.
const MANY_THREADS: Need = Need::Machine(|| {
    const DESCRIPTORS: u64 = 16_000;
    const MEMORY: u64 = 4 << 30;
    if getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < DESCRIPTORS) {
        return Some("RLIMIT_NOFILE is too low for 15,000 clients");
    }
    let memory = procfs::Meminfo::current().ok().and_then(|it| it.mem_available);
    memory.is_none_or(|it| it < MEMORY).then_some("there is too little memory for 15,000 threads")
});

/// For every kind of server.
pub const FEW_THREADS: Case = Case::new(
    "few_threads",
    "with 12 threads or processes allowed, a client is served for good or refused",
    few_threads,
)
.needs(&[Need::Workspace, ROOT]);

/// For every kind of server.
pub const NO_STACKS: Case = Case::new(
    "no_stacks",
    "if no thread can map its stack, a client is served for good or refused",
    no_stacks,
)
.needs(&[Need::Workspace, filter::SECCOMP]);

/// For every kind of server.
pub const NO_ADDRESS_SPACE: Case = Case::new(
    "no_address_space",
    "when its address space is used up, the server serves the clients that it has",
    no_address_space,
)
.needs(&[Need::Workspace]);

/// Clients beyond the limit see a close, the others are served, and when one disconnects there is
/// space for another.
fn refuses_surplus(target: &Target) -> Result<()> {
    const SURPLUS: usize = 50;
    target.launch().serve(|server| {
        let first = Client::connect(server)?;
        first.exchange(1)?;
        let space = space(target, server)?;
        let clients = connect_idle(server, space + SURPLUS)?;
        let mut inside = Vec::new();
        for client in clients {
            // It fails if the server has closed the connection already.
            let _ = client.send_request(2);
            if client.expect_response_or_end(2)? == Reply::Response {
                inside.push(client);
            }
        }
        let count = inside.len();
        ensure!(
            count == space,
            "{count} more clients were served, but there was space for {space}"
        );
        if target.entry().is_some() {
            ensure!(
                server.log()?.contains("refused"),
                "the log does not say that it refused clients"
            );
        }

        inside.iter().try_for_each(|client| client.exchange(3))?;
        drop(inside.pop());
        // The server may not have noticed yet that the client has disconnected.
        wait_until("a new client to be served after one has disconnected", timeout(), || {
            let client = Client::connect(server)?;
            let _ = client.send_request(4);
            Ok((client.expect_response_or_end(4)? == Reply::Response).then_some(()))
        })
    })
}

/// How many more clients the server has space for, with one connected.
fn space(target: &Target, server: &Server) -> Result<usize> {
    match target.properties.fd_setsize {
        Some(limit) => Ok(server.free_descriptors(limit)?.len()),
        None => Ok(target.properties.max_clients.context("there is no limit")? - 1),
    }
}

fn surplus_waits(target: &Target) -> Result<()> {
    // A smaller pool shows the same with fewer clients.
    let mut smaller = target.with_argument("4");
    smaller.properties.max_concurrent = 4;
    let target = if target.argument().is_some() { &smaller } else { target };
    let limit = target.properties.max_concurrent;
    target.launch().serve(|server| {
        if !server.probe().persistent {
            return served_in_turn(server, limit);
        }
        let mut burst = Burst::connect(server, limit + 8)?;
        burst.expect(limit, false)?;
        while !burst.waiting.is_empty() {
            let count = burst.served.len();
            ensure!(count == limit, "{count} clients were served at the same time");
            burst.served.iter().try_for_each(|client| client.exchange(1))?;
            drop(burst.served.remove(0));
            burst.expect(1, false).context("after one client has disconnected")?;
        }
        Ok(())
    })
}

/// The server disconnects each client after its response, so that all are served.
fn served_in_turn(server: &Server, limit: usize) -> Result<()> {
    let count = limit + 8;
    let mut burst = Burst::connect(server, count)?;
    burst.expect(count, false)
}

/// The kernel can queue one sixteenth of the signals that the events of one moment cause.
fn short_signal_queue(target: &Target) -> Result<()> {
    const QUEUED: u64 = 16;
    target.launch().signal_queue_limit(QUEUED).serve(|server| {
        // Data that arrives while the server is stopped causes all its signals at once.
        let clients: Vec<_> =
            (0..16 * QUEUED).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        clients.iter().try_for_each(|client| client.exchange(1))?;
        server.while_stopped(|| clients.iter().try_for_each(|client| client.send_request(2)))?;
        clients.iter().try_for_each(|client| client.expect_response(2))?;

        let mut transfers: Vec<_> = (0..)
            .zip(clients)
            .map(|(seed, client)| Ok(Transfer::new(client, seed, 200_000)?.then_half_close()))
            .collect::<Result<_>>()?;
        transfer::run(&mut transfers)
    })
}

/// A thread of std has four memory mappings. If a new thread cannot make its third or fourth one
/// (`vm.max_map_count`), it panics, and the process ends with all its clients.
fn most_threads(target: &Target) -> Result<()> {
    const SURPLUS: usize = 20;
    const GROUP: usize = 100;
    let limit = target.properties.max_threads.context("there is no limit")?;
    target.launch().log_level("warn").serve(|server| {
        let (mut inside, mut refused) = (Vec::new(), 0);
        while refused < SURPLUS {
            ensure!(inside.len() <= limit, "{} clients are served, not {limit}", inside.len());
            let clients: Vec<_> =
                (0..GROUP).map(|_| Client::connect(server)).collect::<Result<_>>()?;
            for client in &clients {
                // It fails if the server has closed the connection already.
                let _ = client.send_request(1);
            }
            for client in clients {
                let reply = client.expect_response_or_end(1);
                match reply.with_context(|| format!("beside {} clients", inside.len()))? {
                    Reply::Response => inside.push(client),
                    Reply::Closed => refused += 1,
                }
            }
        }
        let log = server.log()?;
        ensure!(log.contains("refused"), "the log does not say that it refused clients");
        // A container or a user may have fewer threads (pids.max, RLIMIT_NPROC).
        let is_machine = log.contains("cannot start a thread");
        let count = inside.len();
        ensure!(count == limit || is_machine, "{count} clients are served, not {limit}");
        inside.iter().step_by(50).try_for_each(|client| client.exchange(2))?;
        // RST leaves no socket in TIME_WAIT. With 15,000 of these, other cases would need long to read
        // /proc/net/tcp.
        inside.into_iter().try_for_each(Client::reset)?;
        wait_until("a new client to be served", timeout(), || {
            let client = Client::connect(server)?;
            let _ = client.send_request(3);
            Ok((client.expect_response_or_end(3)? == Reply::Response).then_some(()))
        })
    })
}

/// A container (`pids.max`) or a user (`RLIMIT_NPROC`) may have few threads. glibc queues an AIO
/// operation without a thread for it, and does not report that.
fn few_threads(target: &Target) -> Result<()> {
    const THREADS: u64 = 12;
    // The limit does not apply to root, and it counts the threads of all processes of a user. So
    // each server is a user of its own, who may not be able to reach the folder of the binaries.
    static USERS: AtomicU32 = AtomicU32::new(0);
    let user = 20_000 + (process::id() * 64 + USERS.fetch_add(1, Ordering::Relaxed)) % 40_000;
    let folder = tempfile::tempdir()?;
    let binary = folder.path().join(&target.name);
    // Not `fs::copy`: a child that this process forks meanwhile would have the file open for writing,
    // and exec would fail with ETXTBSY.
    let copied = Command::new("cp").arg(binaries::path(&target.name)?).arg(&binary).status()?;
    ensure!(copied.success(), "cp: {copied}");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let launch = target.quiet().launch().program(binary).user(user);
    serves_or_refuses(target, launch.limit(Resource::Nproc, THREADS))
}

/// Linux limits the number of mappings of a process (`vm.max_map_count`). A thread needs four.
fn no_stacks(target: &Target) -> Result<()> {
    serves_or_refuses(target, target.quiet().launch().filter(filter::no_stacks()?))
}

/// Checks that the server does not start, or that a client is either served, also later, or refused.
fn serves_or_refuses(target: &Target, launch: Launch) -> Result<()> {
    let clients = if target.properties.max_concurrent == usize::MAX { 30 } else { 1 };
    let Some(mut server) = start::start_or_end(target, launch)? else { return Ok(()) };
    let result = (|| {
        let (inside, refused) = connect_until_refused(&server, clients)?;
        // Resources that a refused client has used are free again.
        inside.iter().try_for_each(|client| client.exchange(2)).context("a client with a place")?;
        if refused > 0 {
            let log = server.log()?;
            ensure!(log.contains("refused"), "the log does not say that it refused clients");
        }
        Ok(())
    })();
    server.check_result(result)
}

/// Connects up to `count` clients, of which some are served and the others refused. None waits. A
/// few refusals are enough, because a server may hope for a moment that another client leaves.
fn connect_until_refused(server: &Server, count: usize) -> Result<(Vec<Client>, usize)> {
    const REFUSALS: usize = 3;
    let (mut inside, mut refused) = (Vec::new(), 0);
    for number in 1..=count {
        let client = Client::connect(server)?;
        // It fails if the server has closed the connection already.
        let _ = client.send_request(1);
        let reply = client.expect_response_or_end(1);
        match reply.with_context(|| format!("client {number} of {count}"))? {
            Reply::Response => inside.push(client),
            Reply::Closed => refused += 1,
        }
        if refused == REFUSALS {
            break;
        }
    }
    Ok((inside, refused))
}

/// The server has memory for some clients more, and not for 100 with buffers or threads.
fn no_address_space(target: &Target) -> Result<()> {
    const LEFT: u64 = 3 << 20;
    let clients = target.properties.max_concurrent.min(100);
    target.quiet().launch().serve(|server| {
        let first = Client::connect(server)?;
        first.exchange(1)?;
        server.set_limit(Resource::As, Some(server.address_space()? + LEFT))?;
        let (inside, _) = connect_until_refused(server, clients - 1)?;
        first.exchange(2).context("the first client")?;
        drop(first);
        inside.iter().try_for_each(|client| client.exchange(2)).context("a client with a place")?;
        drop(inside);
        server.set_limit(Resource::As, None)?;
        // The server may not have noticed yet that the clients have disconnected.
        wait_until("a new client to be served with address space", timeout(), || {
            let client = Client::connect(server)?;
            let _ = client.send_request(3);
            Ok((client.expect_response_or_end(3)? == Reply::Response).then_some(()))
        })
    })
}
