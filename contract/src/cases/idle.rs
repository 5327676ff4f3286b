//! An idle connection uses no processor time and no buffer.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::accept::expect_low_cpu;
use crate::case::{Case, MANY_DESCRIPTORS, Need};
use crate::client::connect_many;
use crate::target::AtRest;
use crate::{Client, Server, Target};

pub const CASES: &[Case] = &[
    Case::new(
        "no_processor_time",
        "the server does not wake up while its clients are idle",
        no_processor_time,
    )
    .needs(&[
        Need::Process,
        Need::Property(|target| target.properties.at_rest != AtRest::Polls, "the server polls"),
        MANY_DESCRIPTORS,
    ])
    .quick(),
    Case::new("no_buffer", "an idle client costs little memory", no_buffer)
        .needs(&[
            Need::Process,
            Need::Property(
                |target| target.properties.idle_memory.is_some(),
                "no limit is given for the memory of an idle client",
            ),
            MANY_DESCRIPTORS,
        ])
        .exclusive(),
    Case::new(
        "active_among_idle",
        "an active client is served beside many idle ones",
        active_among_idle,
    )
    .needs(&[
        Need::Property(
            |target| target.properties.max_concurrent > target.properties.idle_clients,
            "the server does not serve so many clients at the same time",
        ),
        MANY_DESCRIPTORS,
    ])
    .exclusive(),
];

fn no_processor_time(target: &Target) -> Result<()> {
    let properties = &target.properties;
    let count = properties.idle_clients.min(properties.max_concurrent).min(1000);
    target.launch().serve(|server| {
        let _idle = connect_many(server, count)?;
        let result = match properties.at_rest {
            AtRest::WakesUp => expect_low_cpu(server),
            _ => expect_no_wakeups(server),
        };
        result.with_context(|| format!("with {count} idle clients"))
    })
}

/// Checks that the server does nothing while its clients do nothing.
///
/// A server in a busy loop is not switched from, if it has a core to itself. So its processor time
/// counts, too.
pub fn expect_no_wakeups(server: &Server) -> Result<()> {
    // More than the clock ticks in which something else ran.
    const ALLOWED: Duration = Duration::from_millis(50);
    let (mut switches, mut used) = (0, Duration::ZERO);
    // A wake-up that was due when the last client was served may still happen in the first second.
    for _ in 0..3 {
        let before = server.usage()?;
        thread::sleep(Duration::from_secs(1));
        let after = server.usage()?;
        switches = after.switches.saturating_sub(before.switches);
        used = after.cpu.saturating_sub(before.cpu);
        if switches == 0 && used < ALLOWED {
            return Ok(());
        }
    }
    bail!(
        "in a second the server woke up {switches} times and used {} ms of processor time",
        used.as_millis()
    )
}

fn no_buffer(target: &Target) -> Result<()> {
    let count = target.properties.idle_clients;
    let allowed = target.properties.idle_memory.context("there is no limit")? * count as u64;
    target.launch().serve(|server| {
        // The server has then allocated what it needs to serve at all.
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
        (0..server.probe().requests(50)).try_for_each(|seed| active.exchange(seed))?;
        // The idle clients are still connected.
        idle.iter().step_by(100).try_for_each(|client| client.exchange(1))
    })
}
