//! Work per wake-up is bounded: beside two flooding clients, a third one waits milliseconds.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Need};
use crate::{Client, Flood, Server, Target, Transfer, timeout, transfer};

pub const CASES: &[Case] = &[
    Case::new(
        "beside_two_floods",
        "beside two clients that flood the server, a third one is served in milliseconds",
        beside_two_floods,
    )
    .needs(&[Need::Concurrent, Need::Persistent])
    .exclusive()
    .quick(),
    Case::new(
        "no_added_latency",
        "with one client, no response takes 40 ms (Nagle's algorithm and delayed ACK)",
        no_added_latency,
    )
    .needs(&[Need::Persistent])
    .quick(),
];

/// Bytes echoed to the floods while the third client waits for one echo, on average.
///
/// Counted in bytes, the limit is the same on a slow machine and on a fast one. A server that
/// limits its work per wake-up copies at most a megabyte for each client before the next one's
/// turn, and some more if its threads share the cores. A server without a limit copies for as long
/// as more data arrives.
const WORK: u64 = 16 << 20;
/// The longest median time that the third client may wait.
///
/// One turn of the floods takes a few milliseconds, and the scheduler adds some, because the floods
/// have four threads. The rest is for a busy machine.
const TIME: Duration = Duration::from_millis(100);
/// The pause between two requests of the third client. Without it, the client would send most of
/// them in the moments when the floods pause.
const PAUSE: Duration = Duration::from_millis(5);
/// What each flood has to get back meanwhile, so that it is one.
const FLOOD: u64 = 16 << 20;
/// The same in bytes of requests, for other protocols. A server has more work with them.
const REQUESTS: u64 = 256 << 10;

/// If Nagle's algorithm waits for an acknowledgment that is delayed, each response takes 40 ms or
/// more. A busy machine is slow at times, but not each time.
fn no_added_latency(target: &Target) -> Result<()> {
    const DELAYED: Duration = Duration::from_millis(35);
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        let count = server.probe().requests(100);
        let mut times = Vec::new();
        for seed in 0..count {
            let sent = Instant::now();
            client.exchange(seed)?;
            times.push(sent.elapsed());
        }
        // The first acknowledgments of a connection are not delayed (quickack mode).
        times.drain(..times.len() / 5);
        times.sort_unstable();
        let time = times[times.len() / 2];
        ensure!(time < DELAYED, "every other response took {} ms or more", time.as_millis());
        Ok(())
    })
}

fn beside_two_floods(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        if server.probe().requests(u64::MAX) < u64::MAX {
            return beside_many_requests(server);
        }
        let is_echo = server.probe().is_echo();
        let first = Flood::start(server)?;
        let second = Flood::start(server).context("beside one flood")?;
        let floods = [first, second];
        let progress = |flood: &Flood| if is_echo { flood.received() } else { flood.sent() };
        let total = || floods.iter().map(progress).sum::<u64>();
        let goal = if is_echo { FLOOD } else { REQUESTS };
        let goals = floods.each_ref().map(|flood| progress(flood) + goal);
        let flooded = || floods.iter().zip(goals).all(|(flood, goal)| progress(flood) >= goal);
        let third = Client::connect(server)?;
        let (mut times, mut work) = (Vec::new(), 0);
        let start = Instant::now();
        while times.len() < 50 || !flooded() {
            // A busy machine may serve all of them slowly.
            ensure!(start.elapsed() < 3 * timeout(), "a flooding client is hardly served");
            thread::sleep(PAUSE);
            let (sent, before) = (Instant::now(), total());
            third.exchange(1)?;
            times.push(sent.elapsed());
            work += total() - before;
        }

        let average = work / times.len() as u64;
        ensure!(
            !is_echo || average < WORK,
            "two floods had {average} bytes echoed while another client waited for one echo"
        );
        expect_median(times)?;
        floods.into_iter().try_for_each(Flood::stop)
    })
}

/// The floods are connections with as many requests as the server allows, one after the other.
fn beside_many_requests(server: &Server) -> Result<()> {
    let flood = |seed| Transfer::connect(server, seed, u64::from(u32::MAX));
    let mut floods = [flood(1)?, flood(2)?];
    let mut times = Vec::new();
    while times.len() < 50 {
        for (seed, transfer) in (times.len() as u64..).zip(&mut floods) {
            if transfer.is_done() {
                *transfer = flood(seed)?;
            }
        }
        let before: u64 = floods.iter().map(Transfer::answered).sum();
        transfer::run_until(&mut floods, |all| {
            all.iter().map(Transfer::answered).sum::<u64>() > before
                || all.iter().any(Transfer::is_done)
        })?;
        let sent = Instant::now();
        Client::connect(server)?.exchange(1)?;
        times.push(sent.elapsed());
    }
    expect_median(times)
}

fn expect_median(mut times: Vec<Duration>) -> Result<()> {
    times.sort_unstable();
    let median = times[times.len() / 2];
    ensure!(median < TIME, "beside two floods, the median response took {median:?}");
    Ok(())
}
