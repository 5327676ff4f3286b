//! Descriptors, threads, processes and memory return to where they were when the peers leave.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::client::{crowd, message};
use integration_tests::{Client, Figures, Running, Server, patience, until};

use crate::case::{Case, few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("rounds_of_200", |server| rounds(server, 200, 3, come_and_go)),
    Case::new("rounds_of_1000", |server| rounds(server, 1000, 1, come_and_go))
        .lacks(few_descriptors)
        .alone(),
];

/// What an allocator may keep; a leak of two kilobytes a client is more.
const SPARE: u64 = 1 << 20;

/// In a round, so many clients come and go.
pub fn rounds(
    server: &Server,
    clients: usize,
    rounds: usize,
    come_and_go: fn(&Server, &Running, usize) -> Result<()>,
) -> Result<()> {
    server.launch().serve(|running| {
        come_and_go(server, running, clients)?;
        let before = settled(running)?;
        for _ in 0..rounds {
            come_and_go(server, running, clients)?;
        }
        let mut now = Figures::default();
        until("the server being as it was", patience(), || {
            now = running.figures()?;
            let back = now.descriptors <= before.descriptors
                && now.threads <= before.threads
                && now.processes <= before.processes
                && now.zombies <= before.zombies
                && now.memory <= before.memory + SPARE;
            Ok(back.then_some(()))
        })
        .with_context(|| format!("before {rounds} rounds: {before:?}; after them: {now:?}"))
    })
}

/// So many clients come, all at the same time where the model can hold them, talk, and leave in
/// three ways.
fn come_and_go(server: &Server, running: &Running, clients: usize) -> Result<()> {
    let at_once = clients.min(server.at_once).min(server.idle_clients);
    let mut left = clients;
    while left > 0 {
        let wave = crowd(running, at_once.min(left))?;
        left -= wave.len();
        for (number, client) in (0..).zip(wave) {
            client.echo(&message(number, 3000))?;
            leave(number, client)?;
        }
    }
    Ok(())
}

fn leave(number: u64, client: Client) -> Result<()> {
    match number % 3 {
        0 => client.reset(),
        1 => client.leave(),
        _ => {
            drop(client);
            Ok(())
        }
    }
}

/// The figures once they stay the same. Where that is taken for granted too early they are
/// higher than at rest, and the test is less strict than it could be.
pub fn settled(running: &Running) -> Result<Figures> {
    let mut last = running.figures()?;
    until("the server coming to rest", patience(), || {
        thread::sleep(Duration::from_millis(100));
        let now = running.figures()?;
        let same = now.zombies == 0
            && (now.descriptors, now.threads, now.processes, now.memory)
                == (last.descriptors, last.threads, last.processes, last.memory);
        last = now;
        Ok(same.then_some(now))
    })
    .with_context(|| format!("now: {last:?}"))
}
