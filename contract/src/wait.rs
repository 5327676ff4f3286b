//! Waiting for an event, with a deadline.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a test waits for anything that a correct server does at once.
///
/// It bounds how long a wrong server is waited for, and says nothing about speed: a machine
/// that is busy with something else may take seconds for what takes microseconds.
pub const TIMEOUT: Duration = Duration::from_secs(20);

thread_local! {
    static HERE: Cell<Duration> = const { Cell::new(TIMEOUT) };
}

/// How long a test on this thread waits: [`PATIENCE`], where nothing else was said.
#[must_use]
pub fn timeout() -> Duration {
    HERE.get()
}

/// Makes tests on this thread wait less long, where a server is expected to be wrong.
pub fn set_timeout(timeout: Duration) {
    HERE.set(timeout);
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until there is something to see, for at most `limit`; `what` completes the sentence
/// "20 s went by without …".
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        // The time is taken before the look: the last look comes after the deadline.
        let late = start.elapsed() >= limit;
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if late {
            bail!("{} s went by without {what}", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_comes_late_and_gives_up_on_what_never_comes() {
        let mut looks = 0;
        let seen = wait_until("a third look", TIMEOUT, || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(seen.ok(), Some(3));

        let never = wait_until("a miracle", Duration::ZERO, || Ok(None::<()>));
        let error = never.map_err(|error| error.to_string());
        assert_eq!(error, Err("0 s went by without a miracle".to_owned()));
    }
}
