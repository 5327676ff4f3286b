//! A client for which the model has no space is refused with a log line and a close, or waits for
//! its turn. No client hangs.

use anyhow::{Context, Result, ensure};

use super::accept::Burst;
use crate::case::{Case, MANY_DESCRIPTORS, Need};
use crate::client::{Reply, connect_idle};
use crate::{Client, Server, Target, Transfer, timeout, transfer, wait_until};

pub const CASES: &[Case] = &[
    Case::new(
        "refuses_surplus",
        "clients beyond the limit are refused, and the others are still served",
        refuses_surplus,
    )
    .needs(&[
        Need::Process,
        Need::Property(
            |target| {
                target.properties.fd_setsize.is_some() || target.properties.max_clients.is_some()
            },
            "the server has no limit beyond which it refuses clients",
        ),
        MANY_DESCRIPTORS,
    ])
    .exclusive(),
    Case::new(
        "surplus_waits",
        "clients beyond the limit are served as soon as others disconnect",
        surplus_waits,
    )
    .needs(&[Need::Property(
        |target| target.properties.max_concurrent < usize::MAX,
        "the server has no limit beyond which clients wait",
    )])
    .quick(),
    Case::new(
        "short_signal_queue",
        "no data is lost if the kernel can queue only 16 signals",
        short_signal_queue,
    )
    .needs(&[
        Need::Process,
        Need::Property(|target| target.properties.uses_signals, "the server does not use signals"),
    ]),
];

/// Clients beyond the limit see a close, the others are served, and when one disconnects there is
/// space for another.
fn refuses_surplus(target: &Target) -> Result<()> {
    const SURPLUS: usize = 50;
    target.launch().serve(|server| {
        let first = Client::connect(server)?;
        first.exchange(1)?;
        let space = space(target, server)?;
        let clients = connect_idle(server, space + SURPLUS)?;
        let mut inside = Vec::new();
        for client in clients {
            // It fails if the server has closed the connection already.
            let _ = client.send_request(2);
            if client.expect_response_or_end(2)? == Reply::Response {
                inside.push(client);
            }
        }
        let count = inside.len();
        ensure!(
            count == space,
            "{count} more clients were served, but there was space for {space}"
        );
        if target.entry().is_some() {
            ensure!(
                server.log()?.contains("refused"),
                "the log does not say that it refused clients"
            );
        }

        inside.iter().try_for_each(|client| client.exchange(3))?;
        drop(inside.pop());
        // The server may not have noticed yet that the client has disconnected.
        wait_until("a new client to be served after one has disconnected", timeout(), || {
            let client = Client::connect(server)?;
            let _ = client.send_request(4);
            Ok((client.expect_response_or_end(4)? == Reply::Response).then_some(()))
        })
    })
}

/// How many more clients the server has space for, with one connected.
fn space(target: &Target, server: &Server) -> Result<usize> {
    match target.properties.fd_setsize {
        Some(limit) => Ok(server.free_descriptors(limit)?.len()),
        None => Ok(target.properties.max_clients.context("there is no limit")? - 1),
    }
}

fn surplus_waits(target: &Target) -> Result<()> {
    // A smaller pool shows the same with fewer clients.
    let mut smaller = target.with_argument("4");
    smaller.properties.max_concurrent = 4;
    let target = if target.argument().is_some() { &smaller } else { target };
    let limit = target.properties.max_concurrent;
    target.launch().serve(|server| {
        if !server.probe().persistent {
            return served_in_turn(server, limit);
        }
        let mut burst = Burst::connect(server, limit + 8)?;
        burst.expect(limit, false)?;
        while !burst.waiting.is_empty() {
            let count = burst.served.len();
            ensure!(count == limit, "{count} clients were served at the same time");
            burst.served.iter().try_for_each(|client| client.exchange(1))?;
            drop(burst.served.remove(0));
            burst.expect(1, false).context("after one client has disconnected")?;
        }
        Ok(())
    })
}

/// The server disconnects each client after its response, so that all are served.
fn served_in_turn(server: &Server, limit: usize) -> Result<()> {
    let count = limit + 8;
    let mut burst = Burst::connect(server, count)?;
    burst.expect(count, false)
}

/// The kernel can queue one sixteenth of the signals that the events of one moment cause.
fn short_signal_queue(target: &Target) -> Result<()> {
    const QUEUED: u64 = 16;
    target.launch().signal_queue_limit(QUEUED).serve(|server| {
        // Data that arrives while the server is stopped causes all its signals at once.
        let clients: Vec<_> =
            (0..16 * QUEUED).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        clients.iter().try_for_each(|client| client.exchange(1))?;
        server.while_stopped(|| clients.iter().try_for_each(|client| client.send_request(2)))?;
        clients.iter().try_for_each(|client| client.expect_response(2))?;

        let mut transfers: Vec<_> = (0..)
            .zip(clients)
            .map(|(seed, client)| Ok(Transfer::new(client, seed, 200_000)?.then_half_close()))
            .collect::<Result<_>>()?;
        transfer::run(&mut transfers)
    })
}
