//! After SIGINT or SIGTERM the server stops accepting and exits with status 0 within a second,
//! whatever the clients do.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::case::{Case, Need};
use crate::client::connect_many;
use crate::server::signal_name;
use crate::wait::seconds;
use crate::{Client, Flood, Server, Target, Transfer, timeout};

pub const CASES: &[Case] = &[
    Case::new("sigint_no_client", "SIGINT ends the server", |target| {
        no_client(target, Signal::INT)
    })
    .needs(&[Need::Process])
    .exclusive(),
    SIGTERM_NO_CLIENT,
    Case::new("sigint_idle_clients", "SIGINT ends the server beside idle clients", |target| {
        idle_clients(target, Signal::INT)
    })
    .needs(&[Need::Process])
    .exclusive(),
    Case::new("sigterm_idle_clients", "SIGTERM ends the server beside idle clients", |target| {
        idle_clients(target, Signal::TERM)
    })
    .needs(&[Need::Process])
    .exclusive()
    .quick(),
    Case::new(
        "sigint_stalled_client",
        "SIGINT ends the server beside a client that does not read",
        |target| stalled_client(target, Signal::INT),
    )
    .needs(&[Need::Process, Need::Persistent])
    .exclusive(),
    Case::new(
        "sigterm_stalled_client",
        "SIGTERM ends the server beside a client that does not read",
        |target| stalled_client(target, Signal::TERM),
    )
    .needs(&[Need::Process, Need::Persistent])
    .exclusive()
    .quick(),
    Case::new(
        "sigint_flooding_client",
        "SIGINT ends the server while a client floods it",
        |target| flooding_client(target, Signal::INT),
    )
    .needs(&[Need::Process, Need::Persistent])
    .exclusive(),
    Case::new(
        "sigterm_flooding_client",
        "SIGTERM ends the server while a client floods it",
        |target| flooding_client(target, Signal::TERM),
    )
    .needs(&[Need::Process, Need::Persistent])
    .exclusive(),
    SIGNALS_BLOCKED,
];

pub const SIGTERM_NO_CLIENT: Case =
    Case::new("sigterm_no_client", "SIGTERM ends the server", |target| {
        no_client(target, Signal::TERM)
    })
    .needs(&[Need::Process])
    .exclusive()
    .quick();

/// For every kind of server.
pub const SIGNALS_BLOCKED: Case = Case::new(
    "signals_blocked_by_parent",
    "SIGINT and SIGTERM end the server although its parent has blocked them",
    |target| {
        signals_blocked(target, Signal::TERM)?;
        signals_blocked(target, Signal::INT)
    },
)
.needs(&[Need::Process])
.exclusive();

pub fn no_client(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| ends(target, server, signal))
}

/// A signal mask survives exec, and installing a handler does not unblock the signal.
fn signals_blocked(target: &Target, signal: Signal) -> Result<()> {
    let launch = target.launch().blocked(Signal::INT).blocked(Signal::TERM);
    // Other signals that servers use.
    let launch = launch.blocked(Signal::IO).blocked(Signal::USR1).blocked(Signal::CHILD);
    launch.serve(|server| {
        let client = Client::connect(server)?;
        target.greet(&client).context("with blocked signals")?;
        drop(client);
        ends(target, server, signal)
            .with_context(|| format!("{} was blocked at start", signal_name(signal)))
    })
}

fn idle_clients(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let clients = connect_many(server, target.properties.max_concurrent.min(100))?;
        ends(target, server, signal)?;
        clients.iter().try_for_each(|client| {
            if target.entry().is_some() {
                client.expect_end().context("an idle client")
            } else {
                ensure!(client.drain()?, "the connection of an idle client did not end");
                Ok(())
            }
        })
    })
}

fn stalled_client(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let mut stalled = Transfer::connect(server, 1, 64 << 20)?;
        let blocked = stalled.send_until_blocked();
        if server.probe().is_echo() {
            blocked?;
        }
        ends(target, server, signal)
    })
}

fn flooding_client(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let _flood = Flood::start(server)?;
        ends(target, server, signal)
    })
}

/// Sends the signal and checks that the server ends in time, cleanly, and with all its children.
pub fn ends(target: &Target, server: &mut Server, signal: Signal) -> Result<()> {
    // As much again as promised, for a machine that is busy with something else.
    let limit = target.properties.stop * 2;
    let name = signal_name(signal);
    server.signal(signal)?;
    let (status, time) = server.wait(timeout().max(limit))?;
    if target.properties.stops_with_zero {
        ensure!(status.code() == Some(0), "the server ended with {status} after {name}");
    } else {
        // What systemd and shells take for a clean end: systemd.service(5), SuccessExitStatus.
        let number = signal.as_raw();
        let clean = status.success()
            || status.signal() == Some(number)
            || status.code() == Some(128 + number);
        ensure!(clean, "the server ended with {status} after {name}");
    }
    ensure!(time < limit, "the server took {} to end after {name}", seconds(time));
    server.wait_for_children(limit)?;
    // With SO_REUSEADDR, as every server does: then only a listening socket is in the way.
    TcpListener::bind(server.address()).context("the server's port is still in use")?;
    Ok(())
}
