//! What the model cannot hold is refused with a log line and a close, or waits for its turn;
//! nobody hangs.

use anyhow::{Context, Result, ensure};
use integration_tests::client::Reply;
use integration_tests::{Client, Exchange, Server, exchange, patience, until};

use crate::accept::Crowd;
use crate::case::{Case, few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("refuses_beyond_its_descriptors", refuses)
        .applies(|server| server.highest_descriptor.is_some())
        .lacks(few_descriptors)
        .alone(),
    Case::new("surplus_waits", surplus_waits).applies(|server| server.at_once < usize::MAX),
    Case::new("short_signal_queue", short_signal_queue).applies(|server| server.is_told_by_signals),
];

/// Clients past the last descriptor that the model can name see a close, the others are served.
fn refuses(server: &Server) -> Result<()> {
    const CLIENTS: usize = 1300;
    let limit = server.highest_descriptor.context("it has no limit")?;
    server.launch().serve(|running| {
        let first = Client::connect(running)?;
        first.echo(b"ready?")?;
        let room = running.free_descriptors(limit)?.len();
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| Client::connect(running)).collect::<Result<_>>()?;
        let mut inside = Vec::new();
        for client in clients {
            // It fails where the server has closed the connection before.
            let _ = client.send(b"in?");
            if client.expect_or_end(b"in?")? == Reply::Echo {
                inside.push(client);
            }
        }
        let count = inside.len();
        ensure!(count == room, "{count} of {CLIENTS} were served, and there was room for {room}");
        ensure!(running.log()?.contains("refused"), "it refused clients and did not log it");

        inside.iter().try_for_each(|client| client.echo(b"still in?"))?;
        inside.truncate(count - 100);
        // Those who left may not have been noticed yet.
        until("a new client being served after 100 had left", patience(), || {
            let client = Client::connect(running)?;
            let _ = client.send(b"in?");
            Ok((client.expect_or_end(b"in?")? == Reply::Echo).then_some(()))
        })
    })
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
