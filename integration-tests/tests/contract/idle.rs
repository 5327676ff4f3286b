//! An idle connection costs no processor time and no buffer.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration_tests::client::{crowd, message};
use integration_tests::{Client, Running, Server};

use crate::case::{Case, few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("no_processor_time", no_processor_time)
        .applies(|server| server.calm_argument.is_none())
        .lacks(few_descriptors),
    Case::new("no_buffer", no_buffer)
        .applies(|server| server.idle_memory.is_some())
        .lacks(few_descriptors)
        .alone(),
    Case::new("active_among_idle", active_among_idle)
        .applies(|server| server.at_once > server.idle_clients)
        .lacks(few_descriptors)
        .alone(),
];

fn no_processor_time(server: &Server) -> Result<()> {
    let count = server.idle_clients.min(server.at_once).min(1000);
    server.launch().serve(|running| {
        let _idle = crowd(running, count)?;
        sleeps(running).with_context(|| format!("with {count} idle clients"))
    })
}

/// Whether the server does nothing as nobody wants anything of it.
pub fn sleeps(running: &Running) -> Result<()> {
    let mut woken = 0;
    // A wake-up that was due when the last client had its answer may come in the first.
    for _ in 0..3 {
        let before = running.figures()?;
        thread::sleep(Duration::from_secs(1));
        woken = running.figures()?.switches.saturating_sub(before.switches);
        if woken == 0 {
            return Ok(());
        }
    }
    bail!("it woke up {woken} times in a second")
}

fn no_buffer(server: &Server) -> Result<()> {
    let count = server.idle_clients;
    let allowed = server.idle_memory.context("it has no bound")? * count as u64;
    server.launch().serve(|running| {
        // What serving takes at all, it has taken.
        crowd(running, 10)?;
        let before = running.figures()?.memory;
        let _idle = crowd(running, count)?;
        let grown = running.figures()?.memory.saturating_sub(before);
        ensure!(grown < allowed, "{count} idle clients take {grown} bytes of memory");
        Ok(())
    })
}

fn active_among_idle(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let idle = crowd(running, server.idle_clients)?;
        let active = Client::connect(running)?;
        (0..50).try_for_each(|seed| active.echo(&message(seed, 100)))?;
        // They are still there.
        idle.iter().step_by(100).try_for_each(|client| client.echo(b"y"))
    })
}
