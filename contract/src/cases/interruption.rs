//! EINTR, SIGSTOP and SIGCONT change nothing.

use anyhow::Result;

use super::accept::run_out_of_descriptors;
use crate::case::{Case, Need};
use crate::{Client, Target, Transfer, transfer};

pub const CASES: &[Case] = &[
    Case::new("idle", "SIGSTOP and SIGCONT do not disturb idle clients", idle)
        .needs(&[Need::Process])
        .quick(),
    Case::new("in_mid_transfer", "SIGSTOP and SIGCONT do not disturb transfers", in_mid_transfer)
        .needs(&[Need::Process]),
    Case::new(
        "out_of_descriptors",
        "SIGSTOP and SIGCONT do not disturb a server without free file descriptors",
        |target| {
            run_out_of_descriptors(target, 100, |server| {
                (0..3).try_for_each(|_| server.while_stopped(|| Ok(())))
            })
        },
    )
    .needs(&[Need::Process]),
];

fn idle(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        if server.probe().persistent {
            client.exchange(1)?;
        }
        for seed in 0..5 {
            server.while_stopped(|| Ok(()))?;
            if server.probe().persistent {
                client.exchange(seed)?;
            }
            let client =
                if server.probe().persistent { &client } else { &Client::connect(server)? };
            server.while_stopped(|| client.send_request(seed))?;
            client.expect_response(seed)?;
        }
        drop(client);
        server.while_stopped(|| Ok(()))?;
        Client::connect(server)?.exchange(1)
    })
}

fn in_mid_transfer(target: &Target) -> Result<()> {
    const TOTAL: u64 = 6 << 20;
    const STOPS: u64 = 6;
    let count = target.properties.max_concurrent.min(3) as u64;
    target.launch().serve(|server| {
        let mut transfers: Vec<_> = (0..count)
            .map(|seed| Ok(Transfer::connect(server, seed, TOTAL)?.then_half_close()))
            .collect::<Result<_>>()?;
        let total: u64 = transfers.iter().map(Transfer::total).sum();
        for part in 1..=STOPS {
            let goal = total * part / (STOPS + 1);
            let all_done = transfers.iter().all(Transfer::is_done);
            if !all_done {
                transfer::run_until(&mut transfers, |all| {
                    all.iter().map(Transfer::answered).sum::<u64>() >= goal
                })?;
            }
            server.while_stopped(|| Ok(()))?;
        }
        transfer::run(&mut transfers)
    })
}
