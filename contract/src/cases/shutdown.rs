//! SIGINT or SIGTERM: stop accepting, exit 0 within a second whatever the peers do.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::client::connect_many;
use crate::{Flood, Server, Target, Transfer, timeout};
use rustix::process::Signal;

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("sigint_no_client", |target| no_client(target, Signal::INT)).exclusive(),
    Case::new("sigterm_no_client", |target| no_client(target, Signal::TERM)).exclusive(),
    Case::new("sigint_idle_clients", |target| idle_clients(target, Signal::INT)).exclusive(),
    Case::new("sigterm_idle_clients", |target| idle_clients(target, Signal::TERM)).exclusive(),
    Case::new("sigint_stalled_client", |target| stalled_client(target, Signal::INT)).exclusive(),
    Case::new("sigterm_stalled_client", |target| stalled_client(target, Signal::TERM)).exclusive(),
    Case::new("sigint_flooding_client", |target| flooding_client(target, Signal::INT)).exclusive(),
    Case::new("sigterm_flooding_client", |target| flooding_client(target, Signal::TERM))
        .exclusive(),
];

/// The contract's second, and as much again for a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(2);

pub fn no_client(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| ends(server, signal))
}

fn idle_clients(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let clients = connect_many(server, target.properties.max_concurrent.min(100))?;
        ends(server, signal)?;
        clients.iter().try_for_each(|client| client.expect_end().context("an idle client"))
    })
}

fn stalled_client(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let mut stalled = Transfer::connect(server, 1, 64 << 20)?;
        stalled.send_until_blocked()?;
        ends(server, signal)
    })
}

fn flooding_client(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let _flood = Flood::start(server)?;
        ends(server, signal)
    })
}

pub fn ends(server: &mut Server, signal: Signal) -> Result<()> {
    server.signal(signal)?;
    let (status, time) = server.wait(timeout())?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    ensure!(time < LIMIT, "it took {time:?} to end");
    server.wait_for_children(LIMIT)?;
    // Like every server: with SO_REUSEADDR, so that only one who still listens is in the way.
    TcpListener::bind(server.address()).context("its port is still taken")?;
    Ok(())
}
