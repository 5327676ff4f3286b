//! Whatever one peer does ends or slows that peer only; no input reaches a panic.

use std::slice;

use anyhow::{Context, Result};

use crate::client::message;
use crate::{Client, Flood, Server, Target, Transfer, timeout, transfer, wait_until};

use crate::Case;
use crate::cases::leaks::usage_at_rest;

pub const CASES: &[Case] = &[
    Case::new("resets_in_mid_transfer", resets_in_mid_transfer).applies(Target::is_concurrent),
    Case::new("resets_one_after_another", resets_one_after_another),
    Case::new("gone_before_accepted", gone_before_accepted),
    Case::new("gone_before_read", gone_before_read),
    Case::new("garbage", garbage),
    Case::new("byte_at_a_time", byte_at_a_time),
    Case::new("stalled_peer", stalled_peer).applies(Target::is_concurrent),
    Case::new("flooding_peer", flooding_peer).applies(Target::is_concurrent),
    Case::new("existing_clients", existing_clients).applies(Target::is_concurrent),
];

/// A peer with bytes on their way to the server and back.
fn in_mid_transfer(server: &Server) -> Result<Client> {
    let bytes = message(1, 64 * 1024);
    let peer = Client::connect(server)?;
    peer.send(&bytes)?;
    peer.expect(&bytes[..1])?;
    peer.send(&bytes)?;
    Ok(peer)
}

fn resets_in_mid_transfer(target: &Target) -> Result<()> {
    const PEERS: usize = 100;
    // Fewer than the smallest pool of a server that serves many at once.
    const AT_ONCE: usize = 25;
    const WAVES: u64 = (PEERS / AT_ONCE) as u64;
    const SHARE: u64 = 2 << 20;
    target.launch().serve(|server| {
        let mut healthy = [Transfer::connect(server, 2, WAVES * SHARE)?.then_half_close()];
        for wave in 0..WAVES {
            let peers: Vec<_> =
                (0..AT_ONCE).map(|_| in_mid_transfer(server)).collect::<Result<_>>()?;
            transfer::run_until(&mut healthy, |all| all[0].received() >= wave * SHARE)?;
            peers.into_iter().try_for_each(Client::reset)?;
        }
        transfer::run(&mut healthy).context("beside 100 peers that were reset")
    })
}

fn resets_one_after_another(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for _ in 0..20 {
            in_mid_transfer(server)?.reset()?;
        }
        Client::connect(server)?.echo(b"still there?").context("after 20 resets")
    })
}

fn gone_before_accepted(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        server.while_stopped(|| {
            for _ in 0..10 {
                Client::connect(server)?.reset()?;
                let peer = Client::connect(server)?;
                peer.send(b"nobody will read this")?;
                peer.reset()?;
                Client::connect(server)?.half_close()?;
            }
            Ok(())
        })?;
        Client::connect(server)?.echo(b"still there?").context("after 30 that did not wait")
    })
}

/// Nobody is there to take an echo: the first write is answered by an RST, the second one fails.
fn gone_before_read(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        Client::connect(server)?.echo(b"anybody there?")?;
        let before = usage_at_rest(server)?.descriptors;
        server.while_stopped(|| {
            for seed in 0..10 {
                // It closes with a FIN, as there is nothing that it has not read.
                Client::connect(server)?.send(&message(seed, 48 * 1024))?;
            }
            Ok(())
        })?;
        // A server with a thread for each of them may come to them last.
        wait_until("the server being done with them", timeout(), || {
            Ok((server.usage()?.descriptors <= before).then_some(()))
        })?;
        Client::connect(server)?.echo(b"still there?").context("after 10 that did not wait")
    })
}

fn garbage(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let every_byte: Vec<_> = (0..=u8::MAX).collect();
        let client = Client::connect(server)?;
        client.echo(&every_byte)?;
        client.echo(&[0; 10_000])?;
        client.echo(&[u8::MAX; 10_000])?;
        client.echo(&message(1, 10_000))?;
        // No part of the stream, and so nothing to echo; but a wake-up without anything to read.
        client.send_urgent(b'!')?;
        client.echo(b"after the urgent byte").context("after a byte out of band")?;
        drop(client);
        drop(Client::connect(server)?);
        Client::connect(server)?.echo(&every_byte)
    })
}

fn byte_at_a_time(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let slow = Client::connect(server)?;
        slow.echo(b"in")?;
        let healthy = if target.is_concurrent() { Some(Client::connect(server)?) } else { None };
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

fn stalled_peer(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut stalled = Transfer::connect(server, 1, 64 << 20)?;
        stalled.send_until_blocked()?;
        serves_another(server).context("beside a peer that does not read")
    })
}

fn flooding_peer(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let flood = Flood::start(server)?;
        serves_another(server).context("beside a peer that floods")?;
        flood.stop().context("the flooding peer lost its connection")
    })
}

fn serves_another(server: &Server) -> Result<()> {
    let healthy = Client::connect(server)?;
    (0..50).try_for_each(|seed| healthy.echo(&message(seed, 100)))?;
    let mut transfer = Transfer::connect(server, 2, 1 << 20)?.then_half_close();
    transfer::run(slice::from_mut(&mut transfer))
}

/// While new clients connect, one after another, those that are connected are served.
fn existing_clients(target: &Target) -> Result<()> {
    const CLIENTS: u64 = 10;
    target.launch().serve(|server| {
        let mut clients = Vec::new();
        for seed in 0..CLIENTS {
            clients.push(Client::connect(server)?);
            for (number, client) in (1..).zip(&clients) {
                client
                    .echo(&message(seed, 100))
                    .with_context(|| format!("client {number} of {}", clients.len()))?;
            }
        }
        Ok(())
    })
}
