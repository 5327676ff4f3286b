//! The server does not read from a client that does not read. Memory per connection is bounded by
//! one buffer.

use std::slice;

use anyhow::{Context, Result, ensure};

use super::accept::expect_low_cpu;
use crate::case::{Case, Need};
use crate::client::is_reset;
use crate::target::AtRest;
use crate::{Server, Target, Transfer, timeout, transfer, wait_until};

pub const CASES: &[Case] = &[
    Case::new(
        "reads_late",
        "the server takes a bounded amount of data from a client that does not read",
        reads_late,
    )
    .needs(&[Need::Process, Need::Persistent])
    .quick(),
    Case::new(
        "stalled_client_uses_no_cpu",
        "beside a client that does not read, the server uses under 5 % of a core",
        stalled_client_uses_no_cpu,
    )
    .needs(&[Need::Process, Need::Persistent]),
];

/// Much more than the kernel buffers for one connection: `tcp_wmem` and `tcp_rmem` end at a few
/// megabytes, and a receive buffer only grows while somebody reads.
const TOTAL: u64 = 64 << 20;
/// How much is sent between two looks at the memory of the server.
const PORTION: u64 = 1 << 20;

fn reads_late(target: &Target) -> Result<()> {
    let others = if target.is_concurrent() { 4 } else { 0 };
    target.launch().serve(|server| {
        // Every client is served once, so that the server has allocated what that takes.
        let mut client = Transfer::connect(server, 0, 1 << 20)?;
        transfer::run(slice::from_mut(&mut client))?;
        let mut others: Vec<_> = (1..=others)
            .map(|seed| Transfer::connect(server, seed, 1 << 20))
            .collect::<Result<_>>()?;
        transfer::run(&mut others)?;
        let before = server.usage()?.memory;
        let limited = server.probe().requests(u64::MAX) < u64::MAX;
        if limited {
            // The server may close a connection after so many requests: take a new one.
            client = Transfer::connect(server, 0, TOTAL)?;
        } else {
            client.extend(TOTAL);
        }

        // That the socket takes nothing may be temporary. That it took nothing while the others
        // were served is not.
        let mut blocked = 0;
        while blocked < 2 {
            let taken = client.send_portion(PORTION);
            if taken.as_ref().is_err_and(|error| was_disconnected(server, error)) {
                return Ok(());
            }
            if limited && taken.is_err() {
                break; // all requests of the connection are sent
            }
            blocked = if taken? { blocked + 1 } else { 0 };
            if blocked > 0 && target.properties.at_rest != AtRest::Polls {
                // It may be busy with the requests that it has read. A server that does not sleep in
                // all this time fails `stalled_client_uses_no_cpu`.
                let _ = wait_until("the server to sleep", timeout(), || {
                    Ok(server.is_asleep()?.then_some(()))
                });
            }
            check_memory(target, server, before)?;
            if blocked > 0 {
                if !limited {
                    for other in &mut others {
                        other.extend(100_000);
                    }
                }
                // Whether the others are served is a matter of isolation.
                if transfer::run(&mut others).is_err() {
                    others.clear();
                }
            }
        }
        check_memory(target, server, before)?;
        if client.has_ended() {
            return Ok(()); // the server has disconnected the client
        }
        if !server.probe().is_echo() {
            client.stop_sending(); // millions of small requests are left
        }
        match transfer::run(slice::from_mut(&mut client)) {
            Err(error) if was_disconnected(server, &error) => Ok(()),
            result => result.context("when the client read at last"),
        }
    })
}

/// Whether the server has reset the connection, which is one way to get rid of a client that does not
/// read. An echo server loses data that way.
fn was_disconnected(server: &Server, error: &anyhow::Error) -> bool {
    let source = error.downcast_ref::<std::io::Error>();
    !server.probe().is_echo() && source.is_some_and(is_reset)
}

fn check_memory(target: &Target, server: &Server, before: u64) -> Result<()> {
    let grown = server.usage()?.memory.saturating_sub(before);
    ensure!(
        grown < target.properties.memory,
        "the server took {grown} bytes of memory for a client that does not read"
    );
    Ok(())
}

/// The server waits until the client reads, instead of trying to read or write again and again.
fn stalled_client_uses_no_cpu(target: &Target) -> Result<()> {
    target.quiet().launch().serve(|server| {
        let mut stalled = Transfer::connect(server, 0, TOTAL)?;
        let blocked = stalled.send_until_blocked();
        if server.probe().is_echo() {
            blocked?;
        }
        expect_low_cpu(server).context("beside a client that does not read")
    })
}
