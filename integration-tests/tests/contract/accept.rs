//! A failed accept never ends the server; out of descriptors it stops accepting, costs little,
//! and serves again as soon as a connection closes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration_tests::client::{crowd, message};
use integration_tests::{Client, Running, Server, patience, until};

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("starved", |server| starve(server, 200, |_| Ok(()))),
    Case::new("starved_without_connections", starved_without_connections),
    Case::new("full", full),
];

/// A descriptor limit that a crowd reaches soon.
pub const LIMIT: u64 = 64;

/// Clients of which each sends one message at once, and is served when the server likes.
pub struct Crowd {
    pub waiting: Vec<Waiting>,
    pub served: Vec<Client>,
}

pub struct Waiting {
    client: Client,
    message: Vec<u8>,
}

impl Crowd {
    pub fn connect(running: &Running, count: usize) -> Result<Self> {
        let waiting = (0..count as u64).map(|seed| {
            let waiting = Waiting { client: Client::connect(running)?, message: message(seed, 50) };
            waiting.client.send(&waiting.message)?;
            Ok(waiting)
        });
        Ok(Self { waiting: waiting.collect::<Result<_>>()?, served: Vec::new() })
    }

    /// Waits until at least `count` more have had their echo.
    pub fn expect(&mut self, count: usize) -> Result<()> {
        let goal = self.served.len() + count;
        let what = format!("an echo for {count} more of {} that wait", self.waiting.len());
        until(&what, patience(), || {
            let mut still_waiting = Vec::new();
            for waiting in self.waiting.drain(..) {
                if waiting.client.has_answer()? {
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
pub fn starve(
    server: &Server,
    clients: usize,
    meanwhile: impl FnOnce(&Running) -> Result<()>,
) -> Result<()> {
    server.calm().launch().descriptors(LIMIT).serve(|running| {
        let fits = fits(server, running)?.min(clients);
        let mut crowd = Crowd::connect(running, clients)?;
        crowd.expect(fits).with_context(|| format!("{fits} fit"))?;
        meanwhile(running)?;
        costs_little(running).context("with clients waiting")?;
        crowd.served.iter().try_for_each(|client| client.echo(b"and on")).context("meanwhile")?;
        if !crowd.waiting.is_empty() {
            crowd.served.pop();
            crowd.expect(1).context("when one connection had closed")?;
        }
        while !crowd.waiting.is_empty() {
            let closed = crowd.served.len();
            crowd.served.clear();
            let next = closed.min(fits).min(crowd.waiting.len());
            crowd.expect(next).with_context(|| format!("when {closed} had closed"))?;
        }
        Ok(())
    })
}

/// How many clients can be served at once, at least.
fn fits(server: &Server, running: &Running) -> Result<usize> {
    // A server that has answered has opened all that it needs for itself.
    let client = Client::connect(running)?;
    client.echo(b"ready?")?;
    let free = running.free_descriptors(LIMIT)?.len();
    let fits = free.checked_div(server.descriptors_per_client).unwrap_or(usize::MAX);
    Ok(fits.min(server.at_once))
}

/// Whether the server uses under 5 % of a core.
pub fn costs_little(running: &Running) -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(1);
    const ALLOWED: Duration = Duration::from_millis(50);
    let mut used = Duration::ZERO;
    // What it has to do yet for those who came may run into the first window.
    for _ in 0..3 {
        let before = running.figures()?;
        thread::sleep(WINDOW);
        let after = running.figures()?;
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
fn full(server: &Server) -> Result<()> {
    server.calm().launch().descriptors(LIMIT).serve(|running| {
        let inside = crowd(running, fits(server, running)?.min(100))?;
        let _beyond: Vec<_> = (0..10).map(|_| Client::connect(running)).collect::<Result<_>>()?;
        costs_little(running).context("full")?;
        inside.iter().try_for_each(|client| client.echo(b"and on")).context("full")
    })
}

/// The limit falls below what the server has open, as when the system's own table is full: no
/// connection's end will tell it when there is room again.
fn starved_without_connections(server: &Server) -> Result<()> {
    // An `accept` that waits has its descriptor already: one client for each thread that does.
    const LAST: usize = 100;
    server.calm().launch().serve(|running| {
        let client = Client::connect(running)?;
        client.echo(b"ready?")?;
        client.leave()?;
        let lowest_free = running.free_descriptors(LIMIT)?.first().copied().context("none free")?;
        let usual = running.limit_descriptors(Some(lowest_free))?;
        for _ in 0..LAST {
            let client = Client::connect(running)?;
            client.send(b"room?")?;
            let soon = Duration::from_secs(1);
            let answer = until("an answer", soon, || Ok(client.has_answer()?.then_some(())));
            // That none came in a second may be the machine's fault: it is asked again below.
            if answer.is_err() {
                costs_little(running).context("with nobody connected")?;
                if !client.has_answer()? {
                    running.limit_descriptors(usual)?;
                    return client.expect(b"room?").context("when there was room again");
                }
            }
            client.expect(b"room?")?;
            client.leave()?;
        }
        bail!("without descriptors it served {LAST} clients")
    })
}
