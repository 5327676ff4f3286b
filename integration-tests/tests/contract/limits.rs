//! What the model cannot hold is refused with a log line and a close, or waits for its turn;
//! nobody hangs.

use anyhow::{Context, Result, ensure};
use integration_tests::client::Reply;
use integration_tests::{Client, Exchange, Running, Server, exchange, patience, until};

use crate::accept::Crowd;
use crate::case::{Case, few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("refuses_beyond", refuses_beyond)
        .applies(|server| server.highest_descriptor.is_some() || server.most_clients.is_some())
        .lacks(few_descriptors)
        .alone(),
    Case::new("surplus_waits", surplus_waits).applies(|server| server.at_once < usize::MAX),
    Case::new("short_signal_queue", short_signal_queue).applies(|server| server.is_told_by_signals),
];

/// Clients past those that the model can hold see a close, the others are served; and whoever
/// leaves makes room for one.
fn refuses_beyond(server: &Server) -> Result<()> {
    const SURPLUS: usize = 50;
    server.launch().serve(|running| {
        let first = Client::connect(running)?;
        first.echo(b"ready?")?;
        let room = room(server, running)?;
        let clients: Vec<_> =
            (0..room + SURPLUS).map(|_| Client::connect(running)).collect::<Result<_>>()?;
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
        ensure!(running.log()?.contains("refused"), "it refused clients and did not log it");

        inside.iter().try_for_each(|client| client.echo(b"still in?"))?;
        drop(inside.pop());
        // That it left may not have been noticed yet.
        until("a new client being served after one had left", patience(), || {
            let client = Client::connect(running)?;
            let _ = client.send(b"in?");
            Ok((client.expect_or_end(b"in?")? == Reply::Echo).then_some(()))
        })
    })
}

/// How many more it can hold, with one client there.
fn room(server: &Server, running: &Running) -> Result<usize> {
    match server.highest_descriptor {
        Some(limit) => Ok(running.free_descriptors(limit)?.len()),
        None => Ok(server.most_clients.context("it has no limit")? - 1),
    }
}

/// Where only so many are served at once, the next one is as soon as one of them leaves.
fn surplus_waits(server: &Server) -> Result<()> {
    let few = Server { argument: Some("4"), at_once: 4, ..*server };
    let server = if server.argument.is_some() { &few } else { server };
    server.launch().serve(|running| {
        let mut crowd = Crowd::connect(running, server.at_once + 8)?;
        crowd.expect(server.at_once)?;
        while !crowd.waiting.is_empty() {
            let count = crowd.served.len();
            ensure!(count == server.at_once, "{count} were served at once");
            crowd.served.iter().try_for_each(|client| client.echo(b"and on"))?;
            drop(crowd.served.remove(0));
            crowd.expect(1).context("when one had left")?;
        }
        Ok(())
    })
}

/// The kernel can queue a sixteenth of the signals that there is reason for at once: no client
/// loses a byte by it.
fn short_signal_queue(server: &Server) -> Result<()> {
    const QUEUED: u64 = 16;
    server.launch().queued_signals(QUEUED).serve(|running| {
        // What comes while the server is stopped is signalled at once when it goes on.
        let clients: Vec<_> =
            (0..16 * QUEUED).map(|_| Client::connect(running)).collect::<Result<_>>()?;
        clients.iter().try_for_each(|client| client.echo(b"ready?"))?;
        running.paused(|| clients.iter().try_for_each(|client| client.send(b"queued")))?;
        clients.iter().try_for_each(|client| client.expect(b"queued"))?;

        let mut transfers: Vec<_> = (0..)
            .zip(clients)
            .map(|(seed, client)| Ok(Exchange::new(client, seed, 200_000)?.then_half_close()))
            .collect::<Result<_>>()?;
        exchange::run(&mut transfers)
    })
}
