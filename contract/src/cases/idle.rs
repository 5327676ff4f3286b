//! An idle connection costs no processor time and no buffer.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client::{connect_many, message};
use crate::{Client, Server, Target};

use crate::case::{Case, too_few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("no_processor_time", no_processor_time)
        .applies(|target| !target.properties.polls)
        .unavailable(too_few_descriptors),
    Case::new("no_buffer", no_buffer)
        .applies(|target| target.properties.idle_memory.is_some())
        .unavailable(too_few_descriptors)
        .exclusive(),
    Case::new("active_among_idle", active_among_idle)
        .applies(|target| target.properties.max_concurrent > target.properties.idle_clients)
        .unavailable(too_few_descriptors)
        .exclusive(),
];

fn no_processor_time(target: &Target) -> Result<()> {
    let count = target.properties.idle_clients.min(target.properties.max_concurrent).min(1000);
    target.launch().serve(|server| {
        let _idle = connect_many(server, count)?;
        expect_no_wakeups(server).with_context(|| format!("with {count} idle clients"))
    })
}

/// Whether the server does nothing as nobody wants anything of it.
pub fn expect_no_wakeups(server: &Server) -> Result<()> {
    let mut woken = 0;
    // A wake-up that was due when the last client had its answer may come in the first.
    for _ in 0..3 {
        let before = server.usage()?;
        thread::sleep(Duration::from_secs(1));
        woken = server.usage()?.switches.saturating_sub(before.switches);
        if woken == 0 {
            return Ok(());
        }
    }
    bail!("it woke up {woken} times in a second")
}

fn no_buffer(target: &Target) -> Result<()> {
    let count = target.properties.idle_clients;
    let allowed = target.properties.idle_memory.context("it has no bound")? * count as u64;
    target.launch().serve(|server| {
        // What serving takes at all, it has taken.
        connect_many(server, 10)?;
        let before = server.usage()?.memory;
        let _idle = connect_many(server, count)?;
        let grown = server.usage()?.memory.saturating_sub(before);
        ensure!(grown < allowed, "{count} idle clients take {grown} bytes of memory");
        Ok(())
    })
}

fn active_among_idle(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let idle = connect_many(server, target.properties.idle_clients)?;
        let active = Client::connect(server)?;
        (0..50).try_for_each(|seed| active.echo(&message(seed, 100)))?;
        // They are still there.
        idle.iter().step_by(100).try_for_each(|client| client.echo(b"y"))
    })
}
