//! Whatever one peer does ends or slows that peer only; no input reaches a panic.

use std::slice;

use anyhow::{Context, Result};
use integration_tests::client::message;
use integration_tests::{Client, Exchange, Flood, Running, Server, exchange, patience, until};

use crate::case::Case;
use crate::leaks::settled;

pub const CASES: &[Case] = &[
    Case::new("resets_in_mid_transfer", resets_in_mid_transfer).applies(Server::is_concurrent),
    Case::new("resets_one_after_another", resets_one_after_another),
    Case::new("gone_before_accepted", gone_before_accepted),
    Case::new("gone_before_read", gone_before_read),
    Case::new("garbage", garbage),
    Case::new("byte_at_a_time", byte_at_a_time),
    Case::new("stalled_peer", stalled_peer).applies(Server::is_concurrent),
    Case::new("flooding_peer", flooding_peer).applies(Server::is_concurrent),
];

/// A peer with bytes on their way to the server and back.
fn in_mid_transfer(running: &Running) -> Result<Client> {
    let bytes = message(1, 64 * 1024);
    let peer = Client::connect(running)?;
    peer.send(&bytes)?;
    peer.expect(&bytes[..1])?;
    peer.send(&bytes)?;
    Ok(peer)
}

fn resets_in_mid_transfer(server: &Server) -> Result<()> {
    const PEERS: usize = 100;
    // Fewer than the smallest pool of a server that serves many at once.
    const AT_ONCE: usize = 25;
    const WAVES: u64 = (PEERS / AT_ONCE) as u64;
    const SHARE: u64 = 2 << 20;
    server.launch().serve(|running| {
        let mut healthy = [Exchange::connect(running, 2, WAVES * SHARE)?.then_half_close()];
        for wave in 0..WAVES {
            let peers: Vec<_> =
                (0..AT_ONCE).map(|_| in_mid_transfer(running)).collect::<Result<_>>()?;
            exchange::run_until(&mut healthy, |all| all[0].received() >= wave * SHARE)?;
            peers.into_iter().try_for_each(Client::reset)?;
        }
        exchange::run(&mut healthy).context("beside 100 peers that were reset")
    })
}

fn resets_one_after_another(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        for _ in 0..20 {
            in_mid_transfer(running)?.reset()?;
        }
        Client::connect(running)?.echo(b"still there?").context("after 20 resets")
    })
}

fn gone_before_accepted(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        running.paused(|| {
            for _ in 0..10 {
                Client::connect(running)?.reset()?;
                let peer = Client::connect(running)?;
                peer.send(b"nobody will read this")?;
                peer.reset()?;
                Client::connect(running)?.half_close()?;
            }
            Ok(())
        })?;
        Client::connect(running)?.echo(b"still there?").context("after 30 that did not wait")
    })
}

/// Nobody is there to take an echo: the first write is answered by an RST, the second one fails.
fn gone_before_read(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        Client::connect(running)?.echo(b"anybody there?")?;
        let before = settled(running)?.descriptors;
        running.paused(|| {
            for seed in 0..10 {
                // It closes with a FIN, as there is nothing that it has not read.
                Client::connect(running)?.send(&message(seed, 48 * 1024))?;
            }
            Ok(())
        })?;
        // A server with a thread for each of them may come to them last.
        until("the server being done with them", patience(), || {
            Ok((running.figures()?.descriptors <= before).then_some(()))
        })?;
        Client::connect(running)?.echo(b"still there?").context("after 10 that did not wait")
    })
}

fn garbage(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let every_byte: Vec<_> = (0..=u8::MAX).collect();
        let client = Client::connect(running)?;
        client.echo(&every_byte)?;
        client.echo(&[0; 10_000])?;
        client.echo(&[u8::MAX; 10_000])?;
        client.echo(&message(1, 10_000))?;
        // No part of the stream, and so nothing to echo; but a wake-up without anything to read.
        client.send_urgent(b'!')?;
        client.echo(b"after the urgent byte").context("after a byte out of band")?;
        drop(client);
        drop(Client::connect(running)?);
        Client::connect(running)?.echo(&every_byte)
    })
}

fn byte_at_a_time(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let slow = Client::connect(running)?;
        slow.echo(b"in")?;
        let healthy = if server.is_concurrent() { Some(Client::connect(running)?) } else { None };
        let bytes = message(1, 3000);
        for part in bytes.chunks(100) {
            part.iter().try_for_each(|&byte| slow.send(&[byte]))?;
            if let Some(healthy) = &healthy {
                healthy.echo(part).context("beside a peer that sends a byte at a time")?;
            }
        }
        slow.expect(&bytes)
    })
}

fn stalled_peer(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let mut stalled = Exchange::connect(running, 1, 64 << 20)?;
        stalled.send_until_blocked()?;
        serves_another(running).context("beside a peer that does not read")
    })
}

fn flooding_peer(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let flood = Flood::start(running)?;
        serves_another(running).context("beside a peer that floods")?;
        flood.stop().context("the flooding peer lost its connection")
    })
}

fn serves_another(running: &Running) -> Result<()> {
    let healthy = Client::connect(running)?;
    (0..50).try_for_each(|seed| healthy.echo(&message(seed, 100)))?;
    let mut transfer = Exchange::connect(running, 2, 1 << 20)?.then_half_close();
    exchange::run(slice::from_mut(&mut transfer))
}
