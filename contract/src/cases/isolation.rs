//! Whatever one client does, only that client is affected. No input makes the server panic.

use std::slice;

use anyhow::{Context, Result, ensure};

use super::leaks::usage_at_rest;
use crate::case::{Case, Need};
use crate::client::message;
use crate::{Client, Flood, Server, Target, Transfer, timeout, transfer, wait_until};

pub const CASES: &[Case] = &[
    Case::new(
        "resets_in_mid_transfer",
        "while 100 clients reset their connections, another client is served",
        resets_in_mid_transfer,
    )
    .needs(&[Need::Process, Need::Concurrent]),
    Case::new(
        "resets_one_after_another",
        "after 20 clients have reset their connections, the next client is served",
        resets_one_after_another,
    )
    .quick(),
    Case::new(
        "disconnected_before_accept",
        "clients that disconnect before they are accepted do no harm",
        disconnected_before_accept,
    )
    .needs(&[Need::Process])
    .quick(),
    Case::new(
        "disconnected_before_read",
        "clients that disconnect before their requests are read do no harm",
        disconnected_before_read,
    )
    .needs(&[Need::Process]),
    Case::new("garbage", "a client that sends arbitrary bytes does no harm", garbage).quick(),
    Case::new("urgent_data", "urgent data does not delay the data around it", urgent_data)
        .needs(&[Need::Process, Need::Echo]),
    Case::new(
        "byte_at_a_time",
        "a client that sends one byte at a time is served, and delays nobody",
        byte_at_a_time,
    )
    .quick(),
    Case::new("stalled_client", "a client that does not read delays nobody", stalled_client)
        .needs(&[Need::Concurrent, Need::Persistent]),
    Case::new(
        "existing_clients",
        "while new clients connect, those that are connected are served",
        existing_clients,
    )
    .needs(&[Need::Concurrent, Need::Persistent])
    .quick(),
    Case::new(
        "incomplete_request",
        "clients that never finish their request delay nobody",
        incomplete_request,
    )
    .needs(&[Need::Concurrent]),
    Case::new(
        "flooding_client",
        "a client that sends as fast as it can delays nobody for ever",
        flooding_client,
    )
    .needs(&[Need::Concurrent, Need::Persistent]),
    Case::new("many_clients", "each of 200 clients receives its own bytes", many_clients),
];

/// A client with data in flight in both directions.
fn in_mid_transfer(server: &Server) -> Result<Client> {
    let client = Client::connect(server)?;
    if server.probe().is_echo() {
        let bytes = message(1, 64 * 1024);
        client.send(&bytes)?;
        client.expect(&bytes[..1])?;
        client.send(&bytes)?;
    } else {
        client.exchange(1)?;
        if server.probe().persistent {
            (0..10).try_for_each(|_| client.send_request(1))?;
        }
    }
    Ok(client)
}

fn resets_in_mid_transfer(target: &Target) -> Result<()> {
    const CLIENTS: usize = 100;
    // Fewer than the smallest pool of a server that serves many clients at once.
    const GROUP: usize = 25;
    const GROUPS: u64 = (CLIENTS / GROUP) as u64;
    const SHARE: u64 = 2 << 20;
    let group = GROUP.min(target.properties.max_concurrent.saturating_sub(1)).max(1);
    target.launch().serve(|server| {
        let healthy = Transfer::connect(server, 2, GROUPS * SHARE)?.then_half_close();
        let share = healthy.total() / GROUPS;
        let mut healthy = [healthy];
        for number in 0..GROUPS {
            let clients: Vec<_> =
                (0..group).map(|_| in_mid_transfer(server)).collect::<Result<_>>()?;
            transfer::run_until(&mut healthy, |all| all[0].answered() >= number * share)?;
            clients.into_iter().try_for_each(Client::reset)?;
        }
        transfer::run(&mut healthy).context("while 100 other clients were reset")
    })
}

fn resets_one_after_another(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for _ in 0..20 {
            in_mid_transfer(server)?.reset()?;
        }
        Client::connect(server)?.exchange(1).context("after 20 resets")
    })
}

fn disconnected_before_accept(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        server.while_stopped(|| {
            for _ in 0..(server.backlog() / 3).clamp(1, 10) {
                Client::connect(server)?.reset()?;
                let client = Client::connect(server)?;
                client.send_request(1)?;
                client.reset()?;
                Client::connect(server)?.half_close()?;
            }
            Ok(())
        })?;
        Client::connect(server)?.exchange(1).context("after clients that did not wait")
    })
}

/// Nobody receives the responses: the first write causes an RST, and the second write fails.
fn disconnected_before_read(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        Client::connect(server)?.exchange(1)?;
        let before = usage_at_rest(server)?.descriptors;
        server.while_stopped(|| {
            for seed in 0..server.backlog().min(10) as u64 {
                // Closing sends FIN and not RST, because nothing has arrived at this client.
                let client = Client::connect(server)?;
                if server.probe().is_echo() {
                    client.send(&message(seed, 48 * 1024))?;
                } else {
                    (0..server.probe().requests(10)).try_for_each(|_| client.send_request(seed))?;
                }
            }
            Ok(())
        })?;
        // A server with a thread per client may come to them last.
        wait_until(
            "the server to close the connections of clients that have left",
            timeout(),
            || Ok((server.usage()?.descriptors <= before).then_some(())),
        )?;
        Client::connect(server)?.exchange(1).context("after clients that did not wait")
    })
}

fn garbage(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let every_byte: Vec<_> = (0..=u8::MAX).collect();
        if server.probe().is_echo() {
            let client = Client::connect(server)?;
            client.echo(&every_byte)?;
            client.echo(&[0; 10_000])?;
            client.echo(&[u8::MAX; 10_000])?;
            client.echo(&message(1, 10_000))?;
            // An urgent byte is not part of the stream, so the server must not echo it. But it
            // wakes up the server without anything to read.
            client.send_urgent(b'!')?;
            client.echo(b"after the urgent byte").context("after urgent data")?;
        } else {
            for seed in 0..10 {
                let client = Client::connect(server)?;
                // It fails if the server closes the connection at the first bad byte.
                let _ = client.send(&message(seed, 3000));
                let _ = client.send(&every_byte);
                if seed % 2 == 0 {
                    let _ = client.half_close();
                }
            }
        }
        drop(Client::connect(server)?);
        Client::connect(server)?.exchange(1).context("after clients that sent garbage")
    })
}

/// A TCP read stops at the urgent mark, so a short read does not mean that the socket is empty.
fn urgent_data(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        client.exchange(1)?;
        // All three are in the socket when the server reads.
        server.while_stopped(|| {
            client.send(b"abc")?;
            client.send_urgent(b'!')?;
            client.send(b"def")
        })?;
        client.expect(b"abcdef").context("\"abc\", an urgent byte and \"def\"")?;
        client.exchange(2)
    })
}

fn byte_at_a_time(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let slow = Client::connect(server)?;
        let healthy = if target.is_concurrent() { Some(Client::connect(server)?) } else { None };
        let requests = if server.probe().is_echo() { 30 } else { server.probe().requests(5) };
        for seed in 0..requests {
            for byte in server.probe().request(seed, 100) {
                slow.send(&[byte])?;
            }
            if let Some(healthy) = &healthy {
                healthy.exchange(seed).context("beside a client that sends a byte at a time")?;
            }
            slow.expect_response(seed)?;
        }
        Ok(())
    })
}

fn stalled_client(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut stalled = Transfer::connect(server, 1, 64 << 20)?;
        if server.probe().is_echo() {
            stalled.send_until_blocked()?;
        } else {
            // There may be space for all the responses; then the client stalls nobody.
            let _ = stalled.send_until_blocked();
        }
        serves_another(server).context("beside a client that does not read")
    })
}

fn existing_clients(target: &Target) -> Result<()> {
    let count = target.properties.max_concurrent.min(10) as u64;
    target.launch().serve(|server| {
        let mut clients = Vec::new();
        for seed in 0..count {
            clients.push(Client::connect(server)?);
            for (number, client) in (1..).zip(&clients) {
                let who = || format!("client {number} of {}", clients.len());
                client.exchange(seed).with_context(who)?;
            }
        }
        Ok(())
    })
}

fn incomplete_request(target: &Target) -> Result<()> {
    // `serves_another` connects two more.
    let clients = target.properties.max_concurrent.saturating_sub(2).min(20);
    target.launch().serve(|server| {
        let incomplete: Vec<_> =
            (0..clients).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        let request = server.probe().request(1, 100);
        incomplete.iter().try_for_each(|client| client.send(&request[..request.len() / 2]))?;
        serves_another(server).context("beside clients that sent half a request")
    })
}

fn flooding_client(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        if server.probe().requests(u64::MAX) == u64::MAX {
            let flood = Flood::start(server)?;
            serves_another(server).context("beside a client that floods")?;
            return flood.stop().context("the flooding client lost its connection");
        }
        let floods = (0..20).map(|seed| Transfer::connect(server, seed, u64::from(u32::MAX)));
        let mut floods: Vec<_> = floods.collect::<Result<_>>()?;
        transfer::run_until(&mut floods, |all| all.iter().any(|it| it.answered() > 0))?;
        serves_another(server).context("beside clients that flood")?;
        transfer::run(&mut floods)
    })
}

fn serves_another(server: &Server) -> Result<()> {
    let healthy = Client::connect(server)?;
    (0..server.probe().requests(50)).try_for_each(|seed| healthy.exchange(seed))?;
    let mut transfer = Transfer::connect(server, 2, 1 << 20)?.then_half_close();
    transfer::run(slice::from_mut(&mut transfer))?;
    ensure!(transfer.is_done(), "the transfer is not complete");
    Ok(())
}

/// No client receives the bytes of another.
fn many_clients(target: &Target) -> Result<()> {
    const FIRST: u64 = 1000;
    let properties = &target.properties;
    let count = properties.max_concurrent.min(properties.idle_clients).min(200) as u64;
    target.launch().serve(|server| {
        let mut transfers = Vec::new();
        for seed in 0..count {
            // One after another, because a burst of connections is a matter of `accept`.
            let mut transfer = Transfer::connect(server, seed, FIRST)?;
            transfer::run(slice::from_mut(&mut transfer))?;
            transfers.push(transfer);
        }
        if server.probe().persistent {
            // An HTTP server limits the number of requests per connection.
            let more = if server.probe().is_echo() { 100_000 - FIRST } else { FIRST };
            for transfer in &mut transfers {
                transfer.extend(more);
            }
        }
        transfer::run(&mut transfers)
    })
}
