//! EINTR, SIGSTOP and SIGCONT change nothing.

use anyhow::Result;
use integration_tests::{Client, Exchange, Server, exchange};

use crate::accept::starve;
use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("idle", idle),
    Case::new("in_mid_transfer", in_mid_transfer),
    Case::new("starved", starved),
];

fn idle(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let client = Client::connect(running)?;
        client.echo(b"first")?;
        for _ in 0..5 {
            running.paused(|| Ok(()))?;
            client.echo(b"again")?;
            running.paused(|| client.send(b"meanwhile"))?;
            client.expect(b"meanwhile")?;
        }
        drop(client);
        running.paused(|| Ok(()))?;
        Client::connect(running)?.echo(b"last")
    })
}

fn in_mid_transfer(server: &Server) -> Result<()> {
    const TOTAL: u64 = 6 << 20;
    const PAUSES: u64 = 6;
    let count = server.at_once.min(3) as u64;
    server.launch().serve(|running| {
        let mut transfers: Vec<_> = (0..count)
            .map(|seed| Ok(Exchange::connect(running, seed, TOTAL)?.then_half_close()))
            .collect::<Result<_>>()?;
        for part in 1..=PAUSES {
            let goal = count * TOTAL * part / (PAUSES + 1);
            exchange::run_until(&mut transfers, |all| {
                all.iter().map(Exchange::received).sum::<u64>() >= goal
            })?;
            running.paused(|| Ok(()))?;
        }
        exchange::run(&mut transfers)
    })
}

fn starved(server: &Server) -> Result<()> {
    starve(server, 100, |running| (0..3).try_for_each(|_| running.paused(|| Ok(()))))
}
