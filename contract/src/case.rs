//! What a case is, and how it runs against a server.

use std::sync::{PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::{Resource, getrlimit};

use crate::Target;
use crate::wait::{TIMEOUT, set_timeout};

/// The longest time that a case may take. Every wait in a case has a shorter timeout, so only a
/// case that is wrong itself reaches this limit.
const LIMIT: Duration = Duration::from_secs(180);

/// Locked for reading by a case that can run beside others, for writing by one that cannot.
static MACHINE: RwLock<()> = RwLock::new(());

/// One promise of a line of the contract.
///
/// It starts the server that it is given and does not depend on which server that is. So it runs
/// against every server, including one that fails it on purpose.
#[derive(Debug)]
pub struct Case {
    /// Its name within its line.
    pub name: &'static str,
    /// Fails with a sentence that says what was promised and not kept.
    pub run: fn(&Target) -> Result<()>,
    /// Whether the server promises this.
    pub applies: fn(&Target) -> bool,
    /// What it needs and this machine does not have, if anything.
    pub unavailable: fn() -> Option<&'static str>,
    /// Whether no other case may run at the same time, because it measures wall-clock time or uses
    /// most of the machine.
    pub exclusive: bool,
}

impl Case {
    /// A case that applies to every server, on every machine.
    #[must_use]
    pub const fn new(name: &'static str, run: fn(&Target) -> Result<()>) -> Self {
        Self { name, run, applies: |_| true, unavailable: || None, exclusive: false }
    }

    /// The same, for the servers for which this returns true.
    #[must_use]
    pub const fn applies(self, applies: fn(&Target) -> bool) -> Self {
        Self { applies, ..self }
    }

    /// The same, for a machine for which this returns `None`.
    #[must_use]
    pub const fn unavailable(self, unavailable: fn() -> Option<&'static str>) -> Self {
        Self { unavailable, ..self }
    }

    /// The same, while no other case runs.
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// Runs the case. Returns in bounded time whatever the server does.
    pub fn check(&self, target: &Target) -> Result<()> {
        self.check_with(target, TIMEOUT)
    }

    /// The same, with another timeout for each wait.
    pub fn check_with(&self, target: &Target, timeout: Duration) -> Result<()> {
        let (_exclusive, _shared) = if self.exclusive {
            (Some(MACHINE.write().unwrap_or_else(PoisonError::into_inner)), None)
        } else {
            (None, Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
        };
        let (sender, result) = mpsc::channel();
        let run = self.run;
        let target = target.clone();
        thread::spawn(move || {
            set_timeout(timeout);
            sender.send(run(&target))
        });
        match result.recv_timeout(LIMIT) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("the case itself took more than {} s", LIMIT.as_secs())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the case itself panicked"),
        }
    }
}

/// For the cases with a thousand clients or more, which need as many file descriptors as the
/// server.
#[must_use]
pub fn too_few_descriptors() -> Option<&'static str> {
    // Enough for the largest case and those that run beside it.
    let few = getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < 8000);
    few.then_some("RLIMIT_NOFILE is too low for thousands of clients")
}
