//! A peer that does not read is not read from; memory a connection is bounded by one buffer.

use std::slice;

use anyhow::{Context, Result, ensure};
use integration_tests::{Exchange, Server, exchange};

use crate::case::Case;

pub const CASES: &[Case] = &[Case::new("reads_late", reads_late)];

/// Much more than the kernel keeps of one connection: `tcp_wmem` and `tcp_rmem` end at a few
/// megabytes, and the receive buffers only grow where somebody reads.
const TOTAL: u64 = 64 << 20;
/// One buffer, and what an allocator takes at once.
const SPARE: u64 = 1 << 20;

fn reads_late(server: &Server) -> Result<()> {
    let others = if server.is_concurrent() { 4 } else { 0 };
    server.launch().serve(|running| {
        // Everybody has been served once: what that takes, the server has taken.
        let mut peer = Exchange::connect(running, 0, 1 << 20)?;
        exchange::run(slice::from_mut(&mut peer))?;
        let mut others: Vec<_> = (1..=others)
            .map(|seed| Exchange::connect(running, seed, 1 << 20))
            .collect::<Result<_>>()?;
        exchange::run(&mut others)?;
        let before = running.figures()?.memory;

        peer.prolong(TOTAL);
        // That the socket takes nothing may be a pause; that it took nothing while the others
        // were served is the end.
        while peer.send_until_blocked()? > 0 {
            for other in &mut others {
                other.prolong(100_000);
            }
            exchange::run(&mut others).context("beside a peer that does not read")?;
        }
        let grown = running.figures()?.memory.saturating_sub(before);
        ensure!(grown < SPARE, "the server took {grown} bytes for a peer that does not read");

        exchange::run(slice::from_mut(&mut peer)).context("when it read at last")
    })
}
