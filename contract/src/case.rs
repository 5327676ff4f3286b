//! What a case is, and how it runs against a server.

use std::sync::{PoisonError, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::Target;
use crate::wait::{TIMEOUT, seconds, set_timeout};

/// The longest time that a case may take. Every wait in a case has a shorter timeout, so only a
/// case that is wrong itself reaches this limit.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Locked for reading by a case that can run beside others, for writing by one that cannot.
static MACHINE: RwLock<()> = RwLock::new(());

/// One promise of a line of the contract.
///
/// It starts the server that it is given and does not depend on which server that is. So it runs
/// against every server, including one that fails it on purpose.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
pub struct Case {
    /// Its name within its line.
    pub name: &'static str,
    /// What the server promises, as a sentence.
    pub promise: &'static str,
    /// Fails with a sentence that says what was seen instead.
    pub run: fn(&Target) -> Result<()>,
    /// What it needs of the server and of the machine.
    pub needs: &'static [Need],
    /// Whether it fails for one reason only, even if the server does not keep the lines that its
    /// line builds on: see [`builds_on`](crate::cases::builds_on).
    pub independent: bool,
    /// Whether no other case builds on it, although it is in a line on which others build.
    pub leaf: bool,
    /// Whether no other case may run at the same time, because it measures wall-clock time or uses
    /// most of the machine.
    pub exclusive: bool,
    /// Whether it belongs to the short run.
    pub quick: bool,
}

/// What a case needs.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A server that the case starts itself.
    Process,
    /// A server that echoes arbitrary bytes.
    Echo,
    /// A server that serves several clients at the same time.
    Concurrent,
    /// A server that keeps a connection open after a response.
    Persistent,
    /// The command line and the log of the servers of this workspace.
    Workspace,
    /// A property of the server, and why the case does not apply without it.
    Property(fn(&Target) -> bool, &'static str),
    /// Something that a machine may not have. Returns what is missing.
    Machine(fn() -> Option<&'static str>),
}

/// Why a case does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The server does not promise this.
    DoesNotApply(&'static str),
    /// This machine cannot run it.
    Unavailable(&'static str),
}

impl Case {
    /// A case that applies to every server, on every machine.
    #[must_use]
    pub const fn new(
        name: &'static str,
        promise: &'static str,
        run: fn(&Target) -> Result<()>,
    ) -> Self {
        let needs: &[Need] = &[];
        let (independent, leaf, exclusive, quick) = (false, false, false, false);
        Self { name, promise, run, needs, independent, leaf, exclusive, quick }
    }

    /// The same, with what it needs.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// The same, for a case that needs no other line of the contract.
    #[must_use]
    pub const fn independent(self) -> Self {
        Self { independent: true, ..self }
    }

    /// The same, for a failure that breaks nothing else.
    #[must_use]
    pub const fn leaf(self) -> Self {
        Self { leaf: true, ..self }
    }

    /// The same, while no other case runs.
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// The same, also in the short run.
    #[must_use]
    pub const fn quick(self) -> Self {
        Self { quick: true, ..self }
    }

    /// Why the case does not run against this server on this machine, if so.
    #[must_use]
    pub fn skip(&self, target: &Target) -> Option<Skip> {
        let reasons = self.needs.iter().filter_map(|need| need.missing(target));
        // That the server does not promise something is the more lasting reason.
        reasons.min_by_key(|reason| matches!(reason, Skip::Unavailable(_)))
    }

    /// Whether the case only makes sense for the servers of this workspace.
    #[must_use]
    pub fn is_about_workspace(&self) -> bool {
        self.needs.iter().any(|need| matches!(need, Need::Workspace))
    }

    /// Whether the server promises what the case checks.
    #[must_use]
    pub fn applies(&self, target: &Target) -> bool {
        !matches!(self.skip(target), Some(Skip::DoesNotApply(_)))
    }

    /// Runs the case. Returns in bounded time whatever the server does.
    pub fn check(&self, target: &Target) -> Result<()> {
        self.check_within(target, TIMEOUT, LIMIT).0
    }

    /// The same, with another timeout for each wait, and another limit for the whole case. Also
    /// returns how long the case took, without the time for which other cases kept it waiting.
    pub fn check_within(
        &self,
        target: &Target,
        timeout: Duration,
        limit: Duration,
    ) -> (Result<()>, Duration) {
        let (_exclusive, _shared) = if self.exclusive {
            (Some(MACHINE.write().unwrap_or_else(PoisonError::into_inner)), None)
        } else {
            (None, Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
        };
        let start = Instant::now();
        let (sender, result) = mpsc::channel();
        let run = self.run;
        let target = target.clone();
        thread::spawn(move || {
            set_timeout(timeout);
            sender.send(run(&target))
        });
        let result = match result.recv_timeout(limit) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(anyhow!("the case was not complete after {}", seconds(limit)))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(anyhow!("the case itself panicked")),
        };
        (result, start.elapsed())
    }
}

impl Need {
    fn missing(self, target: &Target) -> Option<Skip> {
        let (is_there, reason) = match self {
            Self::Process => (
                target.is_started_here(),
                "needs control over the process, so it does not run with --connect",
            ),
            Self::Echo => (target.probe.is_echo(), "needs an echo server"),
            Self::Concurrent => (target.is_concurrent(), "the server serves one client at a time"),
            Self::Persistent => {
                (target.probe.persistent, "the server closes each connection after one response")
            }
            Self::Workspace => (target.entry().is_some(), "is about the servers of this workspace"),
            Self::Property(has, reason) => (has(target), reason),
            Self::Machine(missing) => return missing().map(Skip::Unavailable),
        };
        (!is_there).then_some(Skip::DoesNotApply(reason))
    }
}

/// For the cases with a thousand clients or more, which need as many file descriptors as the
/// server.
pub const MANY_DESCRIPTORS: Need = Need::Machine(|| {
    // Enough for the largest case and those that run beside it.
    let few = getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < 8000);
    few.then_some("RLIMIT_NOFILE is too low for thousands of clients")
});

/// For the cases that change the user, the network or the mounts of the server. Root may lack the
/// capabilities for this, as in a container.
pub const ROOT: Need = Need::Machine(|| {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    let has_all = capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    (!has_all).then_some("needs root with its capabilities")
});
