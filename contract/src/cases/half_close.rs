//! After the client's FIN the server sends all pending output, and then closes the connection.

use std::slice;

use anyhow::{Context, Result};

use crate::case::{Case, Need};
use crate::client::message;
use crate::{Client, Server, Target, Transfer, transfer};

pub const CASES: &[Case] = &[
    Case::new("large", "after 8 MiB and FIN, everything comes back, and then EOF", large),
    Case::new("small", "after a request and FIN, the response comes back, and then EOF", small)
        .quick(),
    Case::new("nothing", "after FIN alone, the server closes the connection", nothing).quick(),
    Case::new(
        "data_and_fin_at_once",
        "a request and FIN that arrive together are answered, and then EOF",
        data_and_fin_at_once,
    )
    .needs(&[Need::Process])
    .quick(),
    Case::new(
        "all_before_accepted",
        "a request and FIN that arrive before accept are answered, and then EOF",
        all_before_accepted,
    )
    .needs(&[Need::Process]),
    Case::new(
        "reads_late",
        "after FIN, a client that reads late receives all pending output",
        reads_late,
    )
    .needs(&[
        Need::Persistent,
        Need::Property(
            |target| !target.probe.is_http(),
            "an HTTP server does not have to answer pipelined requests after FIN",
        ),
    ]),
];

fn large(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut transfer = Transfer::connect(server, 1, 8 << 20)?.then_half_close();
        transfer::run(slice::from_mut(&mut transfer))
    })
}

/// Sends `size` bytes, or a request, and FIN. `None`: only FIN.
fn send_and_half_close(client: &Client, size: usize) -> Result<()> {
    if client.probe().is_echo() {
        client.send(&message(1, size))?;
    } else if size > 0 {
        client.send_request(1)?;
    }
    client.half_close()
}

/// Receives what [`send_and_half_close`] asked for, and EOF.
fn expect_response_and_end(client: &Client, size: usize) -> Result<()> {
    if client.probe().is_echo() {
        client.expect(&message(1, size))?;
    } else if size > 0 {
        client.expect_response(1)?;
    }
    if client.probe().greeting.is_some() && size == 0 {
        client.drain()?;
        return Ok(());
    }
    client.expect_end()
}

/// The sizes that make a difference: any protocol but echo has one size of request.
fn sizes(server: &Server, sizes: &[usize]) -> Vec<usize> {
    let mut sizes = sizes.to_vec();
    if !server.probe().is_echo() {
        sizes.truncate(2);
    }
    sizes
}

fn small(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for size in sizes(server, &[1, 2, 1000, 50_000]) {
            let client = Client::connect(server)?;
            send_and_half_close(&client, size)?;
            expect_response_and_end(&client, size)?;
        }
        Ok(())
    })
}

fn nothing(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for _ in 0..10 {
            let client = Client::connect(server)?;
            client.half_close()?;
            expect_response_and_end(&client, 0)?;
        }
        Ok(())
    })
}

/// Data and FIN have both arrived when the server looks: one wake-up for the two.
fn data_and_fin_at_once(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for size in sizes(server, &[0, 1, 1000, 50_000]) {
            let client = Client::connect(server)?;
            if server.probe().persistent {
                client.exchange(1)?;
            }
            server.while_stopped(|| send_and_half_close(&client, size))?;
            expect_response_and_end(&client, size)
                .with_context(|| format!("after {size} bytes and FIN"))?;
        }
        Ok(())
    })
}

/// The connection, its data and its FIN have all arrived when the server looks.
fn all_before_accepted(target: &Target) -> Result<()> {
    const SIZE: usize = 1000;
    target.launch().serve(|server| {
        let clients = server.while_stopped(|| {
            let connect = |_| {
                let client = Client::connect(server)?;
                send_and_half_close(&client, SIZE)?;
                Ok(client)
            };
            (0..server.backlog().min(10)).map(connect).collect::<Result<Vec<_>>>()
        })?;
        clients.iter().try_for_each(|client| expect_response_and_end(client, SIZE))
    })
}

/// The FIN follows more data than the server can send: megabytes are pending when it arrives.
fn reads_late(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = if server.probe().is_echo() {
            Client::connect(server)?
        } else {
            Client::connect_narrow(server)?
        };
        let mut transfer = Transfer::new(client, 1, 64 << 20)?;
        let taken = transfer.send_until_blocked();
        // Other protocols may not have enough requests to fill the buffers.
        if server.probe().is_echo() {
            taken?;
        }
        transfer.half_close_here()?;
        transfer::run(slice::from_mut(&mut transfer))
    })
}
