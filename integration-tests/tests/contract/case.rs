//! What a case is, and how one is run against a server.

use std::sync::{PoisonError, RwLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use integration_tests::wait::set_patience;
use integration_tests::{PATIENCE, Server};
use libtest_mimic::{Completion, Failed};
use rustix::process::{Resource, getrlimit};

/// The longest that a case may take. Every wait in it has a deadline of its own, so only a case
/// that is wrong itself comes to this one.
const LIMIT: Duration = Duration::from_secs(180);

/// Held for reading by a case that can share the machine, for writing by one that cannot.
static MACHINE: RwLock<()> = RwLock::new(());

/// One thing that a line of the contract promises.
///
/// It starts the server that it is given, and does not know which one that is: so it can be run
/// against any, and against one that is made to fail it.
pub struct Case {
    /// Its part of the trial's name.
    pub name: &'static str,
    /// Fails with a sentence that says what was promised and not kept.
    pub run: fn(&Server) -> Result<()>,
    /// Which servers promise it.
    pub applies: fn(&Server) -> bool,
    /// What it needs and this machine lacks, if anything.
    pub lacks: fn() -> Option<&'static str>,
    /// Whether it measures wall-clock time, or takes most of what the machine has.
    pub alone: bool,
}

impl Case {
    /// One that applies to every server, on every machine.
    pub const fn new(name: &'static str, run: fn(&Server) -> Result<()>) -> Self {
        Self { name, run, applies: |_| true, lacks: || None, alone: false }
    }

    pub const fn applies(self, applies: fn(&Server) -> bool) -> Self {
        Self { applies, ..self }
    }

    pub const fn lacks(self, lacks: fn() -> Option<&'static str>) -> Self {
        Self { lacks, ..self }
    }

    pub const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Runs it, as a trial.
    pub fn trial(&self, server: &'static Server) -> Result<Completion, Failed> {
        if let Some(lack) = (self.lacks)().or_else(server.lacks) {
            return Ok(Completion::ignored_with(lack));
        }
        self.check(server).map_err(|error| format!("{error:#}"))?;
        Ok(Completion::Completed)
    }

    /// Whether the server keeps what the case asks for; in any event, this ends.
    pub fn check(&self, server: &'static Server) -> Result<()> {
        self.check_with(server, PATIENCE)
    }

    /// The same, with so much patience.
    pub fn check_with(&self, server: &'static Server, patience: Duration) -> Result<()> {
        let (_exclusive, _shared) = if self.alone {
            (Some(MACHINE.write().unwrap_or_else(PoisonError::into_inner)), None)
        } else {
            (None, Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
        };
        let (sender, result) = mpsc::channel();
        let run = self.run;
        thread::spawn(move || {
            set_patience(patience);
            sender.send(run(server))
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

/// For the cases with a thousand clients and more: they need as many descriptors as the servers.
pub fn few_descriptors() -> Option<&'static str> {
    // The largest crowd, and what the cases beside it have open.
    let few = getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < 8000);
    few.then_some("RLIMIT_NOFILE is too low for thousands of clients")
}
