//! No failure of `accept` ends the server or makes it spin. Out of file descriptors it stops
//! accepting, uses little processor time, and serves again as soon as a connection closes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::shutdown;
use crate::case::{Case, Need};
use crate::client::connect_many;
use crate::server::Launch;
use crate::{Client, Server, Target, filter, timeout, wait_until};

pub const CASES: &[Case] = &[
    Case::new("burst", "clients that connect at the same moment are all served", burst)
        .needs(&[Need::Process])
        .quick(),
    Case::new(
        "out_of_descriptors",
        "with more clients than file descriptors, all are served in turn or refused",
        |target| run_out_of_descriptors(target, 200, |_| Ok(())),
    )
    .needs(&[Need::Process])
    .quick(),
    Case::new(
        "out_of_descriptors_without_connections",
        "without a free file descriptor and without connections, the server waits for one",
        out_of_descriptors_without_connections,
    )
    .needs(&[Need::Process])
    .leaf(),
    Case::new(
        "full",
        "when its file descriptors are used up, the server uses under 5 % of a core",
        full,
    )
    .needs(&[Need::Process]),
    Case::new(
        "accept_fails",
        "if accept always fails, the server uses under 5 % of a core and obeys SIGTERM",
        accept_fails,
    )
    .needs(&[Need::Process, filter::SECCOMP])
    .leaf(),
    Case::new("wake_ups", "a new connection wakes only the threads that handle it", wake_ups)
        .needs(&[Need::Process])
        .leaf()
        .exclusive(),
];

/// Clients that send one request each. The server serves them when it can.
pub struct Burst {
    pub waiting: Vec<(u64, Client)>,
    pub served: Vec<Client>,
    /// How many clients the server has refused.
    pub refused: usize,
}

impl Burst {
    pub fn connect(server: &Server, count: usize) -> Result<Self> {
        let mut waiting = Vec::new();
        for seed in 0..count as u64 {
            // Otherwise the backlog is full: then enough clients wait.
            let Some(client) = Client::try_connect(server)? else { break };
            // It fails if the server has refused the client already.
            let _ = client.send_request(seed);
            waiting.push((seed, client));
        }
        Ok(Self { waiting, served: Vec::new(), refused: 0 })
    }

    /// Waits until at least `count` more are served. If `may_refuse`, refused ones count too.
    pub fn expect(&mut self, count: usize, may_refuse: bool) -> Result<()> {
        let goal = self.served.len() + count;
        let refused_before = self.refused;
        let what = format!("{count} more of {} waiting clients to be served", self.waiting.len());
        wait_until(&what, timeout(), || {
            for (seed, client) in std::mem::take(&mut self.waiting) {
                match client.has_response() {
                    Ok(false) => self.waiting.push((seed, client)),
                    Ok(true) => match client.expect_response(seed) {
                        Ok(()) => self.served.push(client),
                        // An error message before the end of the connection.
                        Err(_) if may_refuse && client.drain()? => self.refused += 1,
                        Err(error) => return Err(error),
                    },
                    Err(_) if may_refuse => self.refused += 1,
                    Err(error) => return Err(error),
                }
            }
            let refused = self.refused - refused_before;
            Ok((self.served.len() + refused >= goal || self.waiting.is_empty()).then_some(()))
        })
    }
}

/// All connections are in the queue when the server is notified of the first.
fn burst(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let count = server.backlog().min(target.properties.max_concurrent).min(10);
        let mut burst = server.while_stopped(|| Burst::connect(server, count))?;
        burst.expect(count, false)
    })
}

/// Connects more clients than the server has file descriptors for. Calls `meanwhile` while some of
/// them wait.
pub fn run_out_of_descriptors(
    target: &Target,
    clients: usize,
    meanwhile: impl FnOnce(&Server) -> Result<()>,
) -> Result<()> {
    // Only the servers of this workspace promise to refuse nobody.
    let may_refuse = target.entry().is_none();
    limited(target).serve(|server| {
        let capacity = capacity(target, server)?.min(clients);
        let mut burst = Burst::connect(server, clients)?;
        burst
            .expect(capacity, may_refuse)
            .with_context(|| format!("there are file descriptors for {capacity}"))?;
        meanwhile(server)?;
        expect_low_cpu(server).context("with clients waiting")?;
        burst.served.iter().try_for_each(|client| client.exchange(1)).context("meanwhile")?;
        ensure!(!burst.served.is_empty() || burst.waiting.is_empty(), "no client was served");
        if !burst.waiting.is_empty() {
            burst.served.pop();
            burst.expect(1, may_refuse).context("after one connection was closed")?;
        }
        while !burst.waiting.is_empty() {
            let closed = burst.served.len();
            burst.served.clear();
            let next = closed.min(capacity).min(burst.waiting.len()).max(1);
            burst
                .expect(next, may_refuse)
                .with_context(|| format!("after {closed} connections were closed"))?;
        }
        burst.served.clear();
        Client::connect(server)?.exchange(1).context("after all clients have left")
    })
}

/// The server, with a low limit of file descriptors.
pub fn limited(target: &Target) -> Launch {
    target.quiet().launch().fd_limit(target.properties.fd_limit)
}

/// How many clients the server can serve at once, at least.
pub fn capacity(target: &Target, server: &Server) -> Result<usize> {
    // Once the server has responded, it has opened all file descriptors that it needs for itself.
    let client = Client::connect(server)?;
    client.exchange(1)?;
    let free = server.free_descriptors(target.properties.fd_limit)?.len();
    let capacity = match target.properties.descriptors_per_client {
        Some(count) => free.checked_div(count).unwrap_or(usize::MAX),
        None => 1,
    };
    Ok(capacity.min(target.properties.max_concurrent))
}

/// Checks that the server uses under 5 % of a core.
pub fn expect_low_cpu(server: &Server) -> Result<()> {
    const ALLOWED: Duration = Duration::from_millis(50);
    // A server may try again each second, and use much processor time for that: asyncio does.
    let window = Duration::from_secs(if server.is_of_workspace() { 1 } else { 2 });
    let mut used = Duration::ZERO;
    // The server may still be busy with earlier clients in the first window.
    for _ in 0..3 {
        let before = server.usage()?;
        thread::sleep(window);
        let after = server.usage()?;
        // Scale to the time in which other processes did not keep a thread of the server from
        // running. `waited` is the sum of all threads.
        let threads = u32::try_from(after.threads.max(1))?;
        let waited = after.waited.saturating_sub(before.waited) / threads;
        let free = window.saturating_sub(waited).max(window / 10);
        let used_there = after.cpu.saturating_sub(before.cpu);
        used = used_there.div_f64(free.as_secs_f64());
        if used < ALLOWED {
            return Ok(());
        }
    }
    bail!("the server used {} ms of processor time in a second", used.as_millis())
}

/// The clients for which there is space are still served, whatever happens to the others.
fn full(target: &Target) -> Result<()> {
    limited(target).serve(|server| {
        let inside = connect_many(server, capacity(target, server)?.min(100))?;
        let others = server.backlog().min(10);
        let _others: Vec<_> =
            (0..others).map(|_| Client::try_connect(server)).collect::<Result<_>>()?;
        expect_low_cpu(server).context("with all file descriptors used")?;
        inside
            .iter()
            .try_for_each(|client| client.exchange(1))
            .context("with all file descriptors used")
    })
}

/// The limit falls below the number of open file descriptors, as if the table of the whole system
/// were full. The server closes no connection that could make space.
fn out_of_descriptors_without_connections(target: &Target) -> Result<()> {
    target.quiet().launch().serve(|server| {
        let client = Client::connect(server)?;
        client.exchange(1)?;
        client.finish()?;
        let limit = target.properties.fd_limit.max(1024);
        let lowest_free = server.free_descriptors(limit)?.first().copied();
        let lowest_free = lowest_free.context("no descriptor is free")?;
        let usual = server.set_fd_limit(Some(lowest_free))?;
        if target.properties.keeps_fd_limit {
            let launch = target.quiet().launch().soft_fd_limit(lowest_free);
            return launch.serve(|server| waits_for_a_descriptor(target, server, usual));
        }
        waits_for_a_descriptor(target, server, usual)
    })
}

fn waits_for_a_descriptor(target: &Target, server: &Server, usual: Option<u64>) -> Result<()> {
    // An `accept` that waits may have its file descriptor already: one client per waiting thread.
    const LAST: u64 = 100;
    for seed in 0..LAST {
        let client = Client::connect(server)?;
        client.send_request(seed)?;
        let soon = Duration::from_secs(1);
        let response = wait_until("a response", soon, || {
            Ok(client.has_response().unwrap_or(true).then_some(()))
        });
        if response.is_err() {
            expect_low_cpu(server).context("with no client connected")?;
            // The machine may have been slow, so check again.
            if !client.has_response().unwrap_or(true) {
                server.set_fd_limit(usual)?;
                return client
                    .expect_response(seed)
                    .context("after file descriptors were free again");
            }
        }
        if client.expect_response(seed).is_err() {
            // The server has refused the client: with a spare descriptor, or a new process.
            ensure!(target.entry().is_none(), "the server refused a client");
            server.set_fd_limit(usual)?;
            return Client::connect(server)?
                .exchange(seed)
                .context("after file descriptors were free again");
        }
        client.finish()?;
    }
    // A server that opens each connection in another process never runs out.
    server.set_fd_limit(usual)?;
    ensure!(target.entry().is_none(), "it served {LAST} clients without file descriptors");
    Ok(())
}

/// A security module or a seccomp filter makes `accept` fail, and the connection stays in the
/// queue. A server that takes this for the failure of one connection, and continues with
/// the next one, spins.
fn accept_fails(target: &Target) -> Result<()> {
    target.quiet().launch().filter(filter::no_accept()?).serve(|server| {
        let count = server.backlog().clamp(1, 3);
        let clients: Vec<_> = (0..count).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        let soon = Duration::from_millis(300);
        clients[0].send_request(1)?;
        let served = wait_until("a response", soon, || {
            Ok(clients[0].has_response().unwrap_or(false).then_some(()))
        });
        // io_uring accepts without the system call.
        if served.is_err() {
            expect_low_cpu(server).context("while accept fails with EPERM")?;
        }
        shutdown::ends(target, server, Signal::TERM).context("while accept fails with EPERM")
    })
}

/// If each thread waits for the same listener, each new connection wakes all of them (thundering
/// herd).
fn wake_ups(target: &Target) -> Result<()> {
    const CLIENTS: u64 = 100;
    /// A server needs one or two wake-ups for each of accept, request and EOF. The rest is for
    /// servers that pass a connection from one thread to another.
    const ALLOWED: u64 = 12;
    target.launch().serve(|server| {
        Client::connect(server)?.exchange(1)?;
        let before = server.usage()?.switches;
        for _ in 0..CLIENTS {
            Client::connect(server)?.finish()?;
        }
        let switches = server.usage()?.switches.saturating_sub(before);
        let average = switches / CLIENTS;
        ensure!(average < ALLOWED, "each new connection caused {average} wake-ups");
        Ok(())
    })
}
