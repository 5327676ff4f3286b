//! A peer that does not read is not read from; memory a connection is bounded by one buffer.

use std::slice;

use anyhow::{Context, Result, ensure};

use crate::cases::accept::expect_low_cpu;
use crate::{Case, Target, Transfer, transfer};

pub const CASES: &[Case] =
    &[Case::new("reads_late", reads_late), Case::new("stalled_client_uses_no_cpu", uses_no_cpu)];

/// Much more than the kernel keeps of one connection: `tcp_wmem` and `tcp_rmem` end at a few
/// megabytes, and the receive buffers only grow where somebody reads.
const TOTAL: u64 = 64 << 20;
/// One buffer, and what an allocator takes at once.
const SPARE: u64 = 1 << 20;

fn reads_late(target: &Target) -> Result<()> {
    let others = if target.is_concurrent() { 4 } else { 0 };
    target.launch().serve(|server| {
        // Everybody has been served once: what that takes, the server has taken.
        let mut peer = Transfer::connect(server, 0, 1 << 20)?;
        transfer::run(slice::from_mut(&mut peer))?;
        let mut others: Vec<_> = (1..=others)
            .map(|seed| Transfer::connect(server, seed, 1 << 20))
            .collect::<Result<_>>()?;
        transfer::run(&mut others)?;
        let before = server.usage()?.memory;

        peer.extend(TOTAL);
        // That the socket takes nothing may be a pause; that it took nothing while the others
        // were served is the end.
        while peer.send_until_blocked()? > 0 {
            for other in &mut others {
                other.extend(100_000);
            }
            transfer::run(&mut others).context("beside a peer that does not read")?;
        }
        let grown = server.usage()?.memory.saturating_sub(before);
        ensure!(grown < SPARE, "the server took {grown} bytes for a peer that does not read");

        transfer::run(slice::from_mut(&mut peer)).context("when it read at last")
    })
}

/// While a client does not read, the server waits, instead of trying to write or read again.
fn uses_no_cpu(target: &Target) -> Result<()> {
    target.quiet().launch().serve(|server| {
        let mut stalled = Transfer::connect(server, 0, TOTAL)?;
        stalled.send_until_blocked()?;
        expect_low_cpu(server).context("beside a client that does not read")
    })
}
