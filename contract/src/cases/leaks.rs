//! When the clients have left, file descriptors, threads, processes and memory are as before.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Case, MANY_DESCRIPTORS, Need};
use crate::client::{connect_many, message};
use crate::{Client, Server, Target, Usage, timeout, wait_until};

pub const CASES: &[Case] = &[
    Case::new(
        "rounds_of_200",
        "after three times 200 clients, everything is as after the first 200",
        |target| rounds(target, 200, 3, connect_and_disconnect),
    )
    .needs(&[Need::Process])
    .quick(),
    Case::new(
        "rounds_of_1000",
        "after 1000 more clients, everything is as after the first 1000",
        |target| rounds(target, 1000, 1, connect_and_disconnect),
    )
    .needs(&[Need::Process, MANY_DESCRIPTORS])
    .exclusive(),
];

/// A runtime keeps the threads that it needed at its busiest moment: Go, for example. A leak of a thread
/// per client, or per client that resets its connection, is more.
const THREADS_OF_RUNTIME: usize = 16;

/// In each round, `clients` clients connect and disconnect.
pub fn rounds(
    target: &Target,
    clients: usize,
    rounds: usize,
    connect_and_disconnect: fn(&Target, &Server, usize) -> Result<()>,
) -> Result<()> {
    // What an allocator may keep. A leak of two kilobytes per client is more.
    let spare = target.properties.memory;
    // Fewer, if the server is slow.
    let clients = if target.entry().is_some() {
        clients
    } else {
        clients.min(target.properties.idle_clients)
    };
    let spare_threads = if target.entry().is_some() { 0 } else { THREADS_OF_RUNTIME };
    target.launch().serve(|server| {
        connect_and_disconnect(target, server, clients)?;
        let before = usage_at_rest(server)?;
        for _ in 0..rounds {
            connect_and_disconnect(target, server, clients)?;
        }
        let mut now = Usage::default();
        wait_until("the server's resources to be as before", timeout(), || {
            now = server.usage()?;
            let as_before = now.descriptors <= before.descriptors
                && now.threads <= before.threads + spare_threads
                && now.processes <= before.processes
                && now.zombies <= before.zombies
                && now.memory <= before.memory + spare;
            Ok(as_before.then_some(()))
        })
        .with_context(|| format!("before {rounds} rounds: {before:?}; after them: {now:?}"))
    })
}

/// `clients` clients connect, at the same time if the server can serve so many, and disconnect in
/// three ways.
fn connect_and_disconnect(target: &Target, server: &Server, clients: usize) -> Result<()> {
    let properties = &target.properties;
    let group = clients.min(properties.max_concurrent).min(properties.idle_clients);
    let mut left = clients;
    while left > 0 {
        let connected = connect_many(server, group.min(left))?;
        left -= connected.len();
        for (number, client) in (0..).zip(connected) {
            if server.probe().is_echo() {
                client.echo(&message(number, 3000))?;
            } else {
                client.exchange(number)?;
            }
            disconnect(number, client)?;
        }
    }
    Ok(())
}

fn disconnect(number: u64, client: Client) -> Result<()> {
    match number % 3 {
        0 => client.reset(),
        1 if client.probe().persistent => client.finish(),
        _ => {
            drop(client);
            Ok(())
        }
    }
}

/// The usage when it no longer changes. If this returns too early, it is higher than at rest, and
/// the case is less strict than it could be.
pub fn usage_at_rest(server: &Server) -> Result<Usage> {
    let mut last = server.usage()?;
    wait_until("the server's resources to stop changing", timeout(), || {
        thread::sleep(Duration::from_millis(100));
        let now = server.usage()?;
        let counts = |usage: &Usage| {
            (usage.descriptors, usage.threads, usage.processes, usage.zombies, usage.memory)
        };
        let same = counts(&now) == counts(&last);
        last = now;
        Ok(same.then_some(now))
    })
    .with_context(|| format!("now: {last:?}"))
}
