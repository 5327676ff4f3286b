//! Every byte accepted is echoed once, in order, whatever the sizes of the reads and writes. With
//! other protocols: every request gets its response, whole and in order. No client half-closes here,
//! so that a server that does it wrong fails `half_close` only.

use std::slice;

use anyhow::{Context, Result};

use crate::case::{Case, Need};
use crate::{Client, Target, Transfer, transfer};

pub const CASES: &[Case] = &[
    Case::new(
        "sent_before_accept",
        "a request that arrives before the server accepts the connection is answered",
        sent_before_accept,
    )
    .needs(&[Need::Process]),
    Case::new("sizes", "messages of all sizes up to a megabyte come back", sizes)
        .needs(&[Need::Echo])
        .quick(),
    Case::new("windows", "requests in chunks of all sizes are answered in order", windows).quick(),
    Case::new(
        "short_writes",
        "a client that reads slowly, so that writes are short, receives everything",
        short_writes,
    )
    .quick(),
    Case::new("large", "48 MiB come back, or 2000 responses arrive", large),
];

/// One message after another on one connection, around the sizes of common buffers.
fn sizes(target: &Target) -> Result<()> {
    let powers = [1, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 1 << 20];
    target.launch().serve(|server| {
        let mut transfer = Transfer::connect(server, 1, 0)?;
        for size in powers.into_iter().flat_map(|power| power - 1..=power + 1) {
            transfer.extend(size);
            transfer::run(slice::from_mut(&mut transfer))
                .with_context(|| format!("a message of {size} bytes"))?;
        }
        Ok(())
    })
}

/// Chunks of random sizes, with more or fewer bytes in flight.
fn windows(target: &Target) -> Result<()> {
    let shapes = [
        (1, 1, 500),
        (10, 3, 5_000),
        (1_000, 10, 20_000),
        (1_000, 1_000, 200_000),
        (70_000, 20_000, 2_000_000),
        (u64::MAX, 100, 200_000),
        (u64::MAX, 65_536, 3_000_000),
    ];
    target.launch().serve(|server| {
        for (seed, (window, chunks, total)) in (0..).zip(shapes) {
            let transfer = Transfer::connect(server, seed, total)?;
            let mut transfer = transfer.window(window).chunks(chunks);
            transfer::run(slice::from_mut(&mut transfer)).with_context(|| {
                format!("chunks of up to {chunks} bytes, at most {window} in flight")
            })?;
        }
        Ok(())
    })
}

/// The socket takes the server's output in parts, so its second write may be short too. The send
/// buffer soon grows, and then writes are rarely short. So the case connects several times.
fn short_writes(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for seed in 0..4 {
            let client = Client::connect_narrow(server)?;
            let mut transfer = Transfer::new(client, seed, 120_000)?.slow_reader();
            transfer::run(slice::from_mut(&mut transfer))?;
        }
        Ok(())
    })
}

fn large(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut transfer = Transfer::connect(server, 1, 48 << 20)?;
        transfer::run(slice::from_mut(&mut transfer))
    })
}

/// The request is in the socket when the server sees it for the first time.
fn sent_before_accept(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for seed in 0..3 {
            // One client at a time, because some servers serve no more.
            let client = server.while_stopped(|| {
                let client = Client::connect(server)?;
                client.send_request(seed)?;
                Ok(client)
            })?;
            client.expect_response(seed).context("a request that was sent before accept")?;
        }
        Ok(())
    })
}
