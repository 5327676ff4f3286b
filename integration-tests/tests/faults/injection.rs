//! One fault in one server, and the check of what the server made of it.

use std::ffi::OsStr;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use contract::catalog::{Entry, Kind};
use contract::{Server, Target, usage, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::load::{self, Outcome, Peer};
use crate::table::{Response, THREADED};

/// Time for something that takes milliseconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(15);

/// How often the fault occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At the n-th call of a thread, and never again.
    Once(u32),
    /// At every call from now on, until the tracer leaves.
    AlwaysThenRecovers,
    /// At every call from now on. SIGTERM must still end the server.
    AlwaysThenStops,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    pub call: &'static str,
    pub error: &'static str,
    pub response: Response,
    pub when: When,
}

impl std::fmt::Display for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { call, error, when, .. } = self;
        match when {
            When::Once(count) => write!(f, "{error} at call {count} of {call}"),
            _ => write!(f, "{error} at every {call}"),
        }
    }
}

/// Runs the load against a server while strace injects the fault, and checks what happened.
pub fn check(entry: &'static Entry, injection: &Injection) -> Result<()> {
    let mut target = Target::from(entry).quiet();
    if ["blocking-echo-pool", "blocking-echo-prefork"].contains(&entry.name) {
        // A fault hits each thread by itself.
        target = target.with_argument("8");
    }
    let mut server = target.launch().log_level("warn").start()?;
    let result = inject(&target, injection, &mut server);
    server.check_result(result).with_context(|| injection.to_string())
}

fn inject(target: &Target, injection: &Injection, server: &mut Server) -> Result<()> {
    let address = server.address();
    let is_chat = is_chat(target);
    // Servers with one client at a time would not serve the others beside a witness.
    let mut witness = None;
    if target.is_concurrent() {
        let mut peer = Peer::connect(address, is_chat)?;
        ensure!(peer.exchange("before")? == Outcome::Complete, "the witness was not served");
        witness = Some(peer);
    }
    let descriptors = open_descriptors(server)?;
    let tracer = Tracer::attach(server.pid()?, injection)?;

    if injection.response == Response::Ends {
        // The clients may see anything now.
        let _ = load::run(address, is_chat);
        return ends_with_one_line(server);
    }
    match injection.when {
        When::Once(_) => {
            let lost = load::run(address, is_chat)?;
            let witness_lost = match &mut witness {
                Some(peer) => usize::from(peer.exchange("after")? == Outcome::Lost),
                None => 0,
            };
            judge_losses(target, injection, lost + witness_lost)?;
            drop(tracer);
        }
        When::AlwaysThenRecovers | When::AlwaysThenStops => {
            let waiting = persist(target, injection, server, witness.as_mut())?;
            if injection.when == When::AlwaysThenStops {
                return stops(server);
            }
            drop(tracer);
            for mut peer in waiting {
                let outcome = peer.exchange("at last")?;
                ensure!(outcome == Outcome::Complete, "a client that waited was not served later");
            }
        }
    }

    let log = server.log()?;
    let expected = match injection.response {
        Response::Pauses => Some("paused accepting"),
        Response::Refuses => Some("refused"),
        _ => None,
    };
    if let Some(expected) = expected {
        let count = log.lines().filter(|line| line.contains(expected)).count();
        // The fault may not have occurred, when the server makes fewer calls than that.
        // Each thread meets the fault once.
        let allowed = if THREADED.contains(&target.name.as_str()) { 8 } else { 1 };
        ensure!(
            count <= allowed || injection.response == Response::Refuses,
            "{count} lines say {expected:?}"
        );
    }
    let lost = witness.as_mut().map(|peer| peer.exchange("end")).transpose()?;
    let expected = descriptors - usize::from(lost == Some(Outcome::Lost));
    let mut new = Peer::connect(address, is_chat)?;
    ensure!(new.exchange("new")? == Outcome::Complete, "a new client was not served");
    drop(new);
    wait_until("the descriptors returning", LIMIT, || {
        Ok((open_descriptors(server)? <= expected).then_some(()))
    })
    .with_context(|| format!("{expected} were open before"))?;
    stops(server)
}

/// A single fault hits one client at most, and none where the server tries again.
fn judge_losses(target: &Target, injection: &Injection, lost: usize) -> Result<()> {
    // strace counts per thread: a fault at the first calls of each of several threads is several
    // faults.
    let is_one_thread = !THREADED.contains(&target.name.as_str());
    let allowed = match injection.response {
        Response::Closes | Response::Refuses if is_one_thread => 1,
        Response::Closes | Response::Refuses => usize::MAX,
        _ => 0,
    };
    ensure!(lost <= allowed, "{lost} clients lost their connection");
    Ok(())
}

/// The fault persists: the server neither spins nor hangs, and connected clients are served where
/// the fault is not about them. Returns the clients that wait to be accepted.
fn persist(
    target: &Target,
    injection: &Injection,
    server: &mut Server,
    witness: Option<&mut Peer>,
) -> Result<Vec<Peer>> {
    let address = server.address();
    let mut peers = Vec::new();
    let count = if target.is_concurrent() { 3 } else { 1 };
    for _ in 0..count {
        peers.push(Peer::connect(address, is_chat(target))?);
    }
    let is_about_accepting = matches!(injection.response, Response::Pauses | Response::Skips);
    if let Some(witness) = witness.filter(|_| is_about_accepting) {
        let outcome = witness.exchange("meanwhile")?;
        ensure!(outcome == Outcome::Complete, "a connected client was not served");
    } else if !is_about_accepting {
        for peer in &mut peers {
            peer.exchange("meanwhile")?;
        }
        peers.clear();
    }
    costs_little(server)?;
    Ok(peers)
}

fn costs_little(server: &Server) -> Result<()> {
    const WINDOW: Duration = Duration::from_millis(300);
    let mut share = 0.0;
    // What is left to do for the clients may run into the first window.
    for _ in 0..5 {
        let before = server.usage()?;
        let start = Instant::now();
        thread::sleep(WINDOW);
        let used = server.usage()?.cpu.saturating_sub(before.cpu);
        share = used.as_secs_f64() / start.elapsed().as_secs_f64();
        if share < 0.15 {
            return Ok(());
        }
    }
    bail!("it uses {:.0} % of a core while the fault persists", share * 100.0)
}

fn ends_with_one_line(server: &mut Server) -> Result<()> {
    let (status, _) = server.wait(LIMIT)?;
    let log = server.log()?;
    ensure!(status.code() == Some(1), "it ended with {status}, and not with status 1");
    ensure!(log.lines().count() == 1, "it printed {} lines:\n{log}", log.lines().count());
    Ok(())
}

fn stops(server: &mut Server) -> Result<()> {
    server.signal(Signal::TERM)?;
    let (status, _) = server.wait(LIMIT).context("SIGTERM")?;
    ensure!(status.code() == Some(0), "after SIGTERM it ended with {status}");
    Ok(())
}

/// strace, attached to every thread of a server. Dropping it detaches, and the server runs on.
pub struct Tracer(Child);

impl Tracer {
    fn attach(server: Pid, injection: &Injection) -> Result<Self> {
        let Injection { call, error, when, .. } = injection;
        let when = match when {
            When::Once(count) => count.to_string(),
            _ => "1+".to_owned(),
        };
        let trace = format!("--trace={call}");
        let inject = format!("--inject={call}:error={error}:when={when}");
        Self::start(server, &["-o", "/dev/null", &trace, &inject])
    }

    /// Starts strace with these options, and returns when it traces every thread.
    pub fn start(server: Pid, options: &[impl AsRef<OsStr>]) -> Result<Self> {
        // -f follows new children, but does not find those that exist.
        let processes: Vec<String> =
            processes(server)?.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]).collect();
        let child = Command::new("strace")
            .args(["-f", "-qq"])
            .args(options)
            .args(processes)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start strace")?;
        let tracer = Self(child);
        wait_until("strace attaching", LIMIT, || Ok(all_traced(server)?.then_some(())))?;
        Ok(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Not `Usage::descriptors`, which counts those that a blocked `accept` has reserved.
pub fn open_descriptors(server: &Server) -> Result<usize> {
    let mut count = 0;
    for process in processes(server.pid()?)? {
        // A child may have ended.
        count += fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
    }
    Ok(count)
}

/// The server and its children.
fn processes(server: Pid) -> Result<Vec<i32>> {
    let mut processes = vec![server.as_raw_nonzero().get()];
    for child in usage::children(server)? {
        processes.push(child.pid());
    }
    Ok(processes)
}

fn is_chat(target: &Target) -> bool {
    target.entry().is_some_and(|entry| entry.kind == Kind::Chat)
}

fn all_traced(server: Pid) -> Result<bool> {
    for process in processes(server)? {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
            continue; // the fault has ended the process already
        };
        for task in tasks {
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            let is_zombie = status.lines().any(|line| line.starts_with("State:\tZ"));
            if !is_zombie && status.lines().any(|line| line == "TracerPid:\t0") {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
