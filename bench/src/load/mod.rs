//! The load: clients that check every byte of what they get back.

pub mod chat;
pub mod crowd;
pub mod echo;
pub mod pattern;

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// How long a server may keep silent that owes something.
///
/// It bounds how long a wrong server is waited for; a right one answers in a thousandth of it,
/// even beside five thousand idle connections that a model has to ask one by one.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a stretch of load has brought.
#[derive(Debug)]
pub struct Tally {
    /// Messages that came back whole; in a chat, lines times those who got them.
    pub messages: u64,
    /// Nanoseconds from the first byte sent to the last byte back; in a chat, to the last client.
    pub latency: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self { messages: 0, latency: latency.expect("the bounds are in order") }
    }

    /// Microseconds within which this share of the messages came back.
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let nanoseconds = self.latency.value_at_quantile(quantile);
        (!self.latency.is_empty()).then(|| nanoseconds as f64 / 1e3)
    }

    fn record(&mut self, latency: Duration) {
        self.latency.saturating_record(latency.as_nanos() as u64);
    }
}

/// Clients of either service. An error means that the server is wrong.
pub trait Clients {
    /// Keeps the server busy for so long; afterwards messages are still on their way.
    fn run(&mut self, time: Duration) -> Result<()>;
    /// Receives what is on its way, and sends no more.
    fn drain(&mut self) -> Result<()>;
    /// What has come back since the last time.
    fn take(&mut self) -> Tally;
    /// Receives what is on its way; then nothing more may come.
    fn finish(self: Box<Self>) -> Result<()>;
}
