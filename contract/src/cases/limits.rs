//! What the model cannot hold is refused with a log line and a close, or waits for its turn;
//! nobody hangs.

use anyhow::{Context, Result, ensure};

use crate::client::Reply;
use crate::{Client, Server, Target, Transfer, timeout, transfer, wait_until};

use crate::case::{Case, too_few_descriptors};
use crate::cases::accept::Burst;

pub const CASES: &[Case] = &[
    Case::new("refuses_beyond", refuses_beyond)
        .applies(|target| {
            target.properties.fd_setsize.is_some() || target.properties.max_clients.is_some()
        })
        .unavailable(too_few_descriptors)
        .exclusive(),
    Case::new("surplus_waits", surplus_waits)
        .applies(|target| target.properties.max_concurrent < usize::MAX),
    Case::new("short_signal_queue", short_signal_queue)
        .applies(|target| target.properties.uses_signals),
];

/// Clients past those that the model can hold see a close, the others are served; and whoever
/// leaves makes room for one.
fn refuses_beyond(target: &Target) -> Result<()> {
    const SURPLUS: usize = 50;
    target.launch().serve(|server| {
        let first = Client::connect(server)?;
        first.echo(b"ready?")?;
        let room = room(target, server)?;
        let clients: Vec<_> =
            (0..room + SURPLUS).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        let mut inside = Vec::new();
        for client in clients {
            // It fails where the server has closed the connection before.
            let _ = client.send(b"in?");
            if client.expect_or_end(b"in?")? == Reply::Echo {
                inside.push(client);
            }
        }
        let count = inside.len();
        ensure!(count == room, "{count} more were served, and there was room for {room}");
        ensure!(server.log()?.contains("refused"), "it refused clients and did not log it");

        inside.iter().try_for_each(|client| client.echo(b"still in?"))?;
        drop(inside.pop());
        // That it left may not have been noticed yet.
        wait_until("a new client being served after one had left", timeout(), || {
            let client = Client::connect(server)?;
            let _ = client.send(b"in?");
            Ok((client.expect_or_end(b"in?")? == Reply::Echo).then_some(()))
        })
    })
}

/// How many more it can hold, with one client there.
fn room(target: &Target, server: &Server) -> Result<usize> {
    match target.properties.fd_setsize {
        Some(limit) => Ok(server.free_descriptors(limit)?.len()),
        None => Ok(target.properties.max_clients.context("it has no limit")? - 1),
    }
}

/// Where only so many are served at once, the next one is as soon as one of them leaves.
fn surplus_waits(target: &Target) -> Result<()> {
    let mut few = target.with_argument("4");
    few.properties.max_concurrent = 4;
    let target = if target.argument.is_some() { &few } else { target };
    target.launch().serve(|server| {
        let mut burst = Burst::connect(server, target.properties.max_concurrent + 8)?;
        burst.expect(target.properties.max_concurrent)?;
        while !burst.waiting.is_empty() {
            let count = burst.served.len();
            ensure!(count == target.properties.max_concurrent, "{count} were served at once");
            burst.served.iter().try_for_each(|client| client.echo(b"and on"))?;
            drop(burst.served.remove(0));
            burst.expect(1).context("when one had left")?;
        }
        Ok(())
    })
}

/// The kernel can queue a sixteenth of the signals that there is reason for at once: no client
/// loses a byte by it.
fn short_signal_queue(target: &Target) -> Result<()> {
    const QUEUED: u64 = 16;
    target.launch().signal_queue_limit(QUEUED).serve(|server| {
        // What comes while the server is stopped is signalled at once when it goes on.
        let clients: Vec<_> =
            (0..16 * QUEUED).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        clients.iter().try_for_each(|client| client.echo(b"ready?"))?;
        server.while_stopped(|| clients.iter().try_for_each(|client| client.send(b"queued")))?;
        clients.iter().try_for_each(|client| client.expect(b"queued"))?;

        let mut transfers: Vec<_> = (0..)
            .zip(clients)
            .map(|(seed, client)| Ok(Transfer::new(client, seed, 200_000)?.then_half_close()))
            .collect::<Result<_>>()?;
        transfer::run(&mut transfers)
    })
}
