//! A failed accept never ends the server; out of descriptors it stops accepting, costs little,
//! and serves again as soon as a connection closes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client::{connect_many, message};
use crate::{Client, Server, Target, timeout, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("out_of_descriptors", |target| run_out_of_descriptors(target, 200, |_| Ok(()))),
    Case::new("out_of_descriptors_without_connections", out_of_descriptors_without_connections),
    Case::new("full", full),
    Case::new("wake_ups", wake_ups).exclusive(),
];

/// A descriptor limit that a burst reaches soon.
pub const LIMIT: u64 = 64;

/// Clients of which each sends one message at once, and is served when the server likes.
pub struct Burst {
    pub waiting: Vec<Waiting>,
    pub served: Vec<Client>,
}

pub struct Waiting {
    client: Client,
    message: Vec<u8>,
}

impl Burst {
    pub fn connect(server: &Server, count: usize) -> Result<Self> {
        let waiting = (0..count as u64).map(|seed| {
            let waiting = Waiting { client: Client::connect(server)?, message: message(seed, 50) };
            waiting.client.send(&waiting.message)?;
            Ok(waiting)
        });
        Ok(Self { waiting: waiting.collect::<Result<_>>()?, served: Vec::new() })
    }

    /// Waits until at least `count` more have had their echo.
    pub fn expect(&mut self, count: usize) -> Result<()> {
        let goal = self.served.len() + count;
        let what = format!("an echo for {count} more of {} that wait", self.waiting.len());
        wait_until(&what, timeout(), || {
            let mut still_waiting = Vec::new();
            for waiting in self.waiting.drain(..) {
                if waiting.client.has_response()? {
                    waiting.client.expect(&waiting.message)?;
                    self.served.push(waiting.client);
                } else {
                    still_waiting.push(waiting);
                }
            }
            self.waiting = still_waiting;
            Ok((self.served.len() >= goal).then_some(()))
        })
    }
}

/// More clients than the server has descriptors for; `meanwhile` happens while some of them wait.
pub fn run_out_of_descriptors(
    target: &Target,
    clients: usize,
    meanwhile: impl FnOnce(&Server) -> Result<()>,
) -> Result<()> {
    target.quiet().launch().fd_limit(LIMIT).serve(|server| {
        let fits = fits(target, server)?.min(clients);
        let mut burst = Burst::connect(server, clients)?;
        burst.expect(fits).with_context(|| format!("{fits} fit"))?;
        meanwhile(server)?;
        expect_low_cpu(server).context("with clients waiting")?;
        burst.served.iter().try_for_each(|client| client.echo(b"and on")).context("meanwhile")?;
        if !burst.waiting.is_empty() {
            burst.served.pop();
            burst.expect(1).context("when one connection had closed")?;
        }
        while !burst.waiting.is_empty() {
            let closed = burst.served.len();
            burst.served.clear();
            let next = closed.min(fits).min(burst.waiting.len());
            burst.expect(next).with_context(|| format!("when {closed} had closed"))?;
        }
        Ok(())
    })
}

/// How many clients can be served at once, at least.
fn fits(target: &Target, server: &Server) -> Result<usize> {
    // A server that has answered has opened all that it needs for itself.
    let client = Client::connect(server)?;
    client.echo(b"ready?")?;
    let free = server.free_descriptors(LIMIT)?.len();
    let fits = free.checked_div(target.properties.descriptors_per_client).unwrap_or(usize::MAX);
    Ok(fits.min(target.properties.max_concurrent))
}

/// Whether the server uses under 5 % of a core.
pub fn expect_low_cpu(server: &Server) -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(1);
    const ALLOWED: Duration = Duration::from_millis(50);
    let mut used = Duration::ZERO;
    // What it has to do yet for those who came may run into the first window.
    for _ in 0..3 {
        let before = server.usage()?;
        thread::sleep(WINDOW);
        let after = server.usage()?;
        // What it would have used if it had not had to wait for others that use the machine.
        let waited = after.waited.saturating_sub(before.waited);
        let free = WINDOW.saturating_sub(waited).max(WINDOW / 10);
        let used_there = after.cpu.saturating_sub(before.cpu);
        used = used_there.mul_f64(WINDOW.as_secs_f64() / free.as_secs_f64());
        if used < ALLOWED {
            return Ok(());
        }
    }
    bail!("starved, it used {} ms of processor time in a second", used.as_millis())
}

/// As many clients as there is room for are served on, whatever becomes of those beyond.
fn full(target: &Target) -> Result<()> {
    target.quiet().launch().fd_limit(LIMIT).serve(|server| {
        let inside = connect_many(server, fits(target, server)?.min(100))?;
        let _beyond: Vec<_> = (0..10).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        expect_low_cpu(server).context("full")?;
        inside.iter().try_for_each(|client| client.echo(b"and on")).context("full")
    })
}

/// The limit falls below what the server has open, as when the system's own table is full: no
/// connection's end will tell it when there is room again.
fn out_of_descriptors_without_connections(target: &Target) -> Result<()> {
    // An `accept` that waits has its descriptor already: one client for each thread that does.
    const LAST: usize = 100;
    target.quiet().launch().serve(|server| {
        let client = Client::connect(server)?;
        client.echo(b"ready?")?;
        client.finish()?;
        let lowest_free = server.free_descriptors(LIMIT)?.first().copied().context("none free")?;
        let usual = server.set_fd_limit(Some(lowest_free))?;
        for _ in 0..LAST {
            let client = Client::connect(server)?;
            client.send(b"room?")?;
            let soon = Duration::from_secs(1);
            let answer = wait_until("an answer", soon, || Ok(client.has_response()?.then_some(())));
            // That none came in a second may be the machine's fault: it is asked again below.
            if answer.is_err() {
                expect_low_cpu(server).context("with nobody connected")?;
                if !client.has_response()? {
                    server.set_fd_limit(usual)?;
                    return client.expect(b"room?").context("when there was room again");
                }
            }
            client.expect(b"room?")?;
            client.finish()?;
        }
        bail!("without descriptors it served {LAST} clients")
    })
}

/// A connection that is opened and closed wakes only the threads that handle it.
fn wake_ups(target: &Target) -> Result<()> {
    const CLIENTS: u64 = 100;
    /// A server needs one or two wake-ups for each of accept and EOF. The rest is for servers that
    /// pass a connection from one thread to another.
    const ALLOWED: u64 = 10;
    target.launch().serve(|server| {
        Client::connect(server)?.echo(b"ready?")?;
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
