//! Work a wake-up is bounded: beside two flooding peers a third waits milliseconds.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::client::message;
use integration_tests::{Client, Flood, Server};

use crate::case::Case;

pub const CASES: &[Case] =
    &[Case::new("beside_two_floods", beside_two_floods).applies(Server::is_concurrent).alone()];

/// A server with a bound copies at most some megabytes before the third's turn comes, in a few
/// milliseconds, and the scheduler adds a few more, as four threads share the cores. One without
/// a bound lets it wait for as long as the floods go on.
const BOUND: Duration = Duration::from_millis(100);

fn beside_two_floods(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let floods = [Flood::start(running)?, Flood::start(running)?];
        let echoed = floods.each_ref().map(Flood::echoed);
        let third = Client::connect(running)?;
        let mut times = Vec::new();
        for seed in 0..50 {
            let start = Instant::now();
            third.echo(&message(seed, 100))?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        ensure!(median < BOUND, "beside two floods an echo took {median:?} in the median");
        for (flood, before) in floods.into_iter().zip(echoed) {
            ensure!(flood.echoed() > before, "a flooding peer was not served meanwhile");
            flood.stop()?;
        }
        Ok(())
    })
}
