//! SIGINT or SIGTERM: stop accepting, exit 0 within a second whatever the peers do.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::crowd;
use integration_tests::{Exchange, Flood, Running, Server, patience};
use rustix::process::Signal;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("sigint_no_client", |server| no_client(server, Signal::INT)).alone(),
    Case::new("sigterm_no_client", |server| no_client(server, Signal::TERM)).alone(),
    Case::new("sigint_idle_clients", |server| idle_clients(server, Signal::INT)).alone(),
    Case::new("sigterm_idle_clients", |server| idle_clients(server, Signal::TERM)).alone(),
    Case::new("sigint_stalled_client", |server| stalled_client(server, Signal::INT)).alone(),
    Case::new("sigterm_stalled_client", |server| stalled_client(server, Signal::TERM)).alone(),
    Case::new("sigint_flooding_client", |server| flooding_client(server, Signal::INT)).alone(),
    Case::new("sigterm_flooding_client", |server| flooding_client(server, Signal::TERM)).alone(),
];

/// The contract's second, and as much again for a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(2);

pub fn no_client(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| ends(running, signal))
}

fn idle_clients(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| {
        let clients = crowd(running, server.at_once.min(100))?;
        ends(running, signal)?;
        clients.iter().try_for_each(|client| client.expect_end().context("an idle client"))
    })
}

fn stalled_client(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| {
        let mut stalled = Exchange::connect(running, 1, 64 << 20)?;
        stalled.send_until_blocked()?;
        ends(running, signal)
    })
}

fn flooding_client(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| {
        let _flood = Flood::start(running)?;
        ends(running, signal)
    })
}

pub fn ends(running: &mut Running, signal: Signal) -> Result<()> {
    running.signal(signal)?;
    let (status, time) = running.wait(patience())?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    ensure!(time < LIMIT, "it took {time:?} to end");
    running.wait_for_children(LIMIT)?;
    // Like every server: with SO_REUSEADDR, so that only one who still listens is in the way.
    TcpListener::bind(running.address()).context("its port is still taken")?;
    Ok(())
}
