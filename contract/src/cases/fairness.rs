//! Work a wake-up is bounded: beside two flooding peers a third waits milliseconds.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::message;
use crate::{Client, Flood, Target, timeout};

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("beside_two_floods", beside_two_floods).applies(Target::is_concurrent).exclusive(),
    Case::new("no_added_latency", no_added_latency),
];

/// Echoed to the floods while the third waits for one echo, on average.
///
/// Counted in bytes, it is the same on a slow machine and on a fast one. A server with a bound
/// copies a buffer or a megabyte for each peer before it is the next one's turn, and some more
/// where its threads share the cores; one without copies for as long as more keeps coming.
const WORK: u64 = 16 << 20;
/// The longest time that the third waits, in the median.
///
/// A turn of the others takes a server with a bound a few milliseconds, and the scheduler adds
/// some, as the floods have four threads; the rest is for a machine that is busy.
const TIME: Duration = Duration::from_millis(100);
/// Between two messages of the third. If it sent the next one at once, it would send most in the
/// moments in which the floods pause.
const PAUSE: Duration = Duration::from_millis(5);
/// What each flood has to get back meanwhile: it is one.
const FLOOD: u64 = 16 << 20;

/// Who is alone with the server waits for nothing.
///
/// Where Nagle's algorithm waits for an acknowledgement that is delayed, each answer takes 40 ms
/// or more; where not, the machine may be slow at times, but not each time.
fn no_added_latency(target: &Target) -> Result<()> {
    const DELAYED: Duration = Duration::from_millis(35);
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        let mut times = Vec::new();
        for seed in 0..100 {
            let sent = Instant::now();
            client.echo(&message(seed, 100))?;
            times.push(sent.elapsed());
        }
        // The first acknowledgements of a connection are not delayed, nor some after a pause of
        // 200 ms, which a busy machine may make.
        times.drain(..20);
        times.sort_unstable();
        let time = times[times.len() / 2];
        ensure!(time < DELAYED, "every other echo took {} ms or more", time.as_millis());
        Ok(())
    })
}

fn beside_two_floods(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let floods = [Flood::start(server)?, Flood::start(server)?];
        let echoed = || floods.iter().map(Flood::echoed).sum::<u64>();
        let goals = floods.each_ref().map(|flood| flood.echoed() + FLOOD);
        let flooded = || floods.iter().zip(goals).all(|(flood, goal)| flood.echoed() >= goal);
        let third = Client::connect(server)?;
        let (mut times, mut work) = (Vec::new(), 0);
        let start = Instant::now();
        while times.len() < 50 || !flooded() {
            ensure!(start.elapsed() < timeout(), "a flooding peer is hardly served");
            thread::sleep(PAUSE);
            let (sent, before) = (Instant::now(), echoed());
            third.echo(&message(1, 100))?;
            times.push(sent.elapsed());
            work += echoed() - before;
        }

        let average = work / times.len() as u64;
        ensure!(average < WORK, "for each echo, two floods had {average} bytes echoed before it");
        times.sort_unstable();
        let median = times[times.len() / 2];
        ensure!(median < TIME, "beside two floods an echo took {median:?} in the median");
        floods.into_iter().try_for_each(Flood::stop)
    })
}
