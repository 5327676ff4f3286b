//! Descriptors, threads, processes and memory return to where they were when the peers leave.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::{connect_many, message};
use crate::{Client, Server, Target, Usage, timeout, wait_until};

use crate::case::{Case, too_few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("rounds_of_200", |target| rounds(target, 200, 3, come_and_go)),
    Case::new("rounds_of_1000", |target| rounds(target, 1000, 1, come_and_go))
        .unavailable(too_few_descriptors)
        .exclusive(),
];

/// What an allocator may keep; a leak of two kilobytes a client is more.
const SPARE: u64 = 1 << 20;

/// In a round, so many clients come and go.
pub fn rounds(
    target: &Target,
    clients: usize,
    rounds: usize,
    come_and_go: fn(&Target, &Server, usize) -> Result<()>,
) -> Result<()> {
    target.launch().serve(|server| {
        come_and_go(target, server, clients)?;
        let before = usage_at_rest(server)?;
        for _ in 0..rounds {
            come_and_go(target, server, clients)?;
        }
        let mut now = Usage::default();
        wait_until("the server being as it was", timeout(), || {
            now = server.usage()?;
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
fn come_and_go(target: &Target, server: &Server, clients: usize) -> Result<()> {
    let max_concurrent =
        clients.min(target.properties.max_concurrent).min(target.properties.idle_clients);
    let mut left = clients;
    while left > 0 {
        let wave = connect_many(server, max_concurrent.min(left))?;
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
        1 => client.finish(),
        _ => {
            drop(client);
            Ok(())
        }
    }
}

/// The figures once they stay the same. Where that is taken for granted too early they are
/// higher than at rest, and the test is less strict than it could be.
pub fn usage_at_rest(server: &Server) -> Result<Usage> {
    let mut last = server.usage()?;
    wait_until("the server coming to rest", timeout(), || {
        thread::sleep(Duration::from_millis(100));
        let now = server.usage()?;
        let same = now.zombies == 0
            && (now.descriptors, now.threads, now.processes, now.memory)
                == (last.descriptors, last.threads, last.processes, last.memory);
        last = now;
        Ok(same.then_some(now))
    })
    .with_context(|| format!("now: {last:?}"))
}
