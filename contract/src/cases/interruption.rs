//! EINTR, SIGSTOP and SIGCONT change nothing.

use anyhow::Result;

use crate::{Client, Target, Transfer, transfer};

use crate::Case;
use crate::cases::accept::run_out_of_descriptors;

pub const CASES: &[Case] = &[
    Case::new("idle", idle),
    Case::new("in_mid_transfer", in_mid_transfer),
    Case::new("out_of_descriptors", out_of_descriptors),
];

fn idle(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        client.echo(b"first")?;
        for _ in 0..5 {
            server.while_stopped(|| Ok(()))?;
            client.echo(b"again")?;
            server.while_stopped(|| client.send(b"meanwhile"))?;
            client.expect(b"meanwhile")?;
        }
        drop(client);
        server.while_stopped(|| Ok(()))?;
        Client::connect(server)?.echo(b"last")
    })
}

fn in_mid_transfer(target: &Target) -> Result<()> {
    const TOTAL: u64 = 6 << 20;
    const PAUSES: u64 = 6;
    let count = target.properties.max_concurrent.min(3) as u64;
    target.launch().serve(|server| {
        let mut transfers: Vec<_> = (0..count)
            .map(|seed| Ok(Transfer::connect(server, seed, TOTAL)?.then_half_close()))
            .collect::<Result<_>>()?;
        for part in 1..=PAUSES {
            let goal = count * TOTAL * part / (PAUSES + 1);
            transfer::run_until(&mut transfers, |all| {
                all.iter().map(Transfer::received).sum::<u64>() >= goal
            })?;
            server.while_stopped(|| Ok(()))?;
        }
        transfer::run(&mut transfers)
    })
}

fn out_of_descriptors(target: &Target) -> Result<()> {
    run_out_of_descriptors(target, 100, |server| {
        (0..3).try_for_each(|_| server.while_stopped(|| Ok(())))
    })
}
