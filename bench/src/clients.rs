//! The clients. They check every byte that they receive.

pub mod chat;
pub mod churn;
pub mod compute;
pub mod connections;
pub mod echo;
pub mod parallel;
pub mod pattern;

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// How long a server may send nothing although messages are in flight.
///
/// It limits how long a wrong server is waited for. A correct server replies in a thousandth of
/// it, even if it has to check five thousand idle connections one by one.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Messages counted over a period, and their latencies.
#[derive(Debug)]
pub struct Tally {
    /// Messages that came back complete. In a chat: lines times the clients that received them.
    pub messages: u64,
    /// Nanoseconds from the first byte sent to the last byte received; in a chat, by the last
    /// client.
    pub latency: Histogram<u64>,
}

impl Tally {
    pub fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self { messages: 0, latency: latency.expect("the bounds are in order") }
    }

    /// Returns a quantile of the latencies in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let nanoseconds = self.latency.value_at_quantile(quantile);
        (!self.latency.is_empty()).then(|| nanoseconds as f64 / 1e3)
    }

    /// Adds what was counted elsewhere over the same period.
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        // Both have the same bounds, so this cannot fail.
        let _ = self.latency.add(&other.latency);
    }

    fn record(&mut self, latency: Duration) {
        self.latency.saturating_record(latency.as_nanos() as u64);
    }
}

/// Clients of an echo or a chat server. An error means that the server is wrong.
pub trait Clients {
    /// Keeps the server busy for this long. Messages are still in flight when it returns.
    fn run(&mut self, time: Duration) -> Result<()>;
    /// Receives the messages in flight, and sends no others.
    fn drain(&mut self) -> Result<()>;
    /// Returns what has been counted since the last call.
    fn take(&mut self) -> Tally;
    /// Receives the messages in flight, and checks that nothing comes after them.
    fn finish(self: Box<Self>) -> Result<()>;
}
