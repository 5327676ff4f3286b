//! `decentralised` in a network namespace: clocks that are wrong, networks that split, and how many
//! datagrams the nodes send.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use communication_modes::{Process, ask};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::decentralised::{all_know_all, node};
use crate::namespace::{Island, in_namespace, missing_namespaces, plug_in, unplug};
use crate::support::{TIMEOUT, program, server, trial, until};

pub fn trials() -> Vec<Trial> {
    let namespaces = missing_namespaces();
    let faketime = namespaces.or(libfaketime().is_none().then_some("libfaketime"));
    let set_back = || wrong_clock("-1h", Signal::SIGKILL);
    let set_ahead = || wrong_clock("+1h", Signal::SIGTERM);
    vec![
        trial("gossip::a_clock_set_back", faketime, set_back),
        trial("gossip::a_clock_set_ahead", faketime, set_ahead),
        trial("gossip::a_network_that_splits", namespaces, a_network_that_splits),
    ]
}

/// Returns the path of the library that gives a program a wrong clock.
fn libfaketime() -> Option<String> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    paths.find(|path| path.is_file()).map(|path| path.to_string_lossy().into_owned())
}

/// Returns how many datagrams have been sent in the namespace of a process.
fn datagrams(process: &Process) -> Result<u32> {
    let counters = fs::read_to_string(format!("/proc/{}/net/snmp", process.id()))?;
    let mut rows = counters.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (rows.next().context("no names")?, rows.next().context("no values")?);
    let mut counters = names.split(' ').zip(values.split(' '));
    let (_, sent) = counters.find(|(name, _)| *name == "OutDatagrams").context("no counter")?;
    Ok(sent.parse()?)
}

/// Datagrams per second that three nodes send on an idle machine. On a busy one they may send fewer.
const CALM: f64 = 12.0;

/// Returns the datagrams per second over `duration`.
fn rate(process: &Process, duration: Duration) -> Result<f64> {
    let (before, start) = (datagrams(process)?, Instant::now());
    thread::sleep(duration);
    let sent = datagrams(process)? - before;
    Ok(f64::from(sent) / start.elapsed().as_secs_f64())
}

/// One of three nodes ends and is started again with a wrong clock. It joins within five seconds, and
/// after that the nodes send at most twice as many datagrams as before. Then it ends and is
/// started with the right clock. The same must hold then, also if the clock had been ahead before.
fn wrong_clock(offset: &str, signal: Signal) -> Result<()> {
    in_namespace(|| {
        let a = node(&[])?;
        let b = node(&[&a])?;
        let mut c = node(&[&b])?;
        all_know_all(&[&a, &b, &c])?;
        thread::sleep(Duration::from_secs(3)); // until all gossip about the last node has been sent
        let calm = rate(&a, Duration::from_secs(5))?.max(CALM);
        let program = program("decentralised").to_string_lossy();
        let preload = format!("LD_PRELOAD={}", libfaketime().context("no libfaketime")?);
        // The monotonic clock, which a program may trust, stays right.
        let offset = format!("FAKETIME={offset}");
        let wrong = [&preload[..], &offset, "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        for clock in [&wrong[..], &[]] {
            c.signal(signal)?;
            c.wait()?;
            let start = Instant::now();
            let args = [clock, &[&program, "node", &c.addr, &b.addr]].concat();
            c = Process::start("", "env".as_ref(), &args)?.listening()?;
            all_know_all(&[&a, &b, &c])?;
            let joined = start.elapsed();
            ensure!(joined < Duration::from_secs(5), "{clock:?}: joined after {joined:?}");
            let now = rate(&a, Duration::from_secs(5))?;
            ensure!(now <= 2.0 * calm, "{now} datagrams per second, {calm} before");
            all_know_all(&[&a, &b, &c])?;
        }
        Ok(())
    })
}

/// Both parts continue, and when the network is whole again, so is the list of members.
fn a_network_that_splits() -> Result<()> {
    in_namespace(|| {
        let island = Island::new()?;
        let program = program("decentralised").to_string_lossy();
        let a = server("decentralised", &["node", "10.0.0.1:7401"])?;
        let b = server("decentralised", &["node", "10.0.0.1:7402", &a.addr])?;
        let far = |addr| island.start(&program, &["node", addr, &a.addr])?.listening();
        let (c, d) = (far("10.0.0.2:7401")?, far("10.0.0.2:7402")?);
        all_know_all(&[&a, &b, &c, &d])?;
        unplug()?;
        for (node, others) in [(&a, [&c, &d]), (&b, [&c, &d]), (&c, [&a, &b]), (&d, [&a, &b])] {
            for other in others {
                node.expect(&format!("{} left", other.addr))?;
            }
        }
        all_know_all(&[&a, &b])?;
        ensure!(ask(&a.addr, "all x", TIMEOUT)?.lines().count() == 2);
        plug_in()?;
        all_know_all(&[&a, &b, &c, &d])?;
        until("all nodes answer again", || {
            Ok(ask(&b.addr, "all x", TIMEOUT)?.matches("says x").count() == 4)
        })
    })
}
