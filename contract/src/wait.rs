//! Waiting with a timeout.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a case waits for something that a correct server does at once.
///
/// This limits how long a case waits for a wrong server. It is not a limit on speed: a busy machine
/// may take seconds for what usually takes microseconds.
pub const TIMEOUT: Duration = Duration::from_secs(20);

thread_local! {
    static CURRENT: Cell<Duration> = const { Cell::new(TIMEOUT) };
}

/// The timeout of the cases on this thread: [`TIMEOUT`], unless [`set_timeout`] has changed it.
#[must_use]
pub fn timeout() -> Duration {
    CURRENT.get()
}

/// Changes the timeout of the cases on this thread.
pub fn set_timeout(timeout: Duration) {
    CURRENT.set(timeout);
}

/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `check` until it returns `Some`, for at most `limit`.
///
/// `what` completes the sentence "waited 20 s for …".
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        // Read the clock first, so that the last check comes after the deadline.
        let late = start.elapsed() >= limit;
        if let Some(value) = check()? {
            return Ok(value);
        }
        if late {
            bail!("waited {} for {what}", seconds(limit));
        }
        thread::sleep(PAUSE);
    }
}

/// `20 s`, `0.3 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{} s", f64::from(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_value_and_times_out_without_one() {
        let mut checks = 0;
        let value = wait_until("the third check", TIMEOUT, || {
            checks += 1;
            Ok((checks == 3).then_some(checks))
        });
        assert_eq!(value.ok(), Some(3));

        let never = wait_until("nothing", Duration::ZERO, || Ok(None::<()>));
        let error = never.map_err(|error| error.to_string());
        assert_eq!(error, Err("waited 0 s for nothing".to_owned()));
        assert_eq!(seconds(Duration::from_millis(300)), "0.3 s");
    }
}
