//! Members join and leave a queue group while jobs flow, and no job is lost.
//!
//! `JOBS=1000000 cargo test -p communication-modes --test modes jobs` runs it for longer.

use std::collections::VecDeque;
use std::env;
use std::io::Write;
use std::thread;

use anyhow::{Result, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::nats::{Kind, client, flush, for_both};
use crate::support::{join, start};

pub fn trials() -> Vec<Trial> {
    for_both("jobs", &[("members_join_and_leave", members_join_and_leave)])
}

/// Jobs that are published before a member joins or leaves.
const JOBS_PER_CHANGE: usize = 500;
/// Members at the same time.
const MEMBERS: usize = 3;

fn members_join_and_leave(kind: Kind) -> Result<()> {
    let jobs: usize = env::var("JOBS").map_or(Ok(20_000), |jobs| jobs.parse())?;
    let broker = kind.start()?;
    let join_group = || -> Result<Process> {
        let member = start("publish-subscribe", &["subscribe", &broker.addr, "jobs", "workers"])?;
        member.expect("subscribed")?;
        Ok(member)
    };
    let mut members = VecDeque::from([join_group()?]);
    let (mut taken, mut changes) = (0, 0);
    let mut publisher = client(&broker)?;
    for first in (0..jobs).step_by(JOBS_PER_CHANGE) {
        // A member starts while the jobs flow: it joins somewhere in between.
        let args = ["subscribe", &broker.addr, "jobs", "workers"];
        let joining = start("publish-subscribe", &args)?;
        let end = jobs.min(first + JOBS_PER_CHANGE);
        let mut lines = String::new();
        for job in first..end {
            lines += &format!("PUB jobs {}\r\n{job}\r\n", job.to_string().len());
        }
        let mut stream = publisher.stream().try_clone()?;
        let publishing = thread::spawn(move || Ok(stream.write_all(lines.as_bytes())?));
        // And the oldest leaves.
        if members.len() >= MEMBERS {
            let Some(mut leaving) = members.pop_front() else { break };
            leaving.signal(Signal::SIGTERM)?;
            ensure!(leaving.wait()?.success(), "a member did not end well");
            taken += leaving.count("jobs: ");
        }
        joining.expect("subscribed")?;
        members.push_back(joining);
        join(publishing)?;
        flush(&mut publisher)?;
        changes += 1;
    }
    for mut member in members {
        member.signal(Signal::SIGTERM)?;
        ensure!(member.wait()?.success(), "a member did not end well");
        taken += member.count("jobs: ");
    }
    ensure!(taken == jobs, "{} of {jobs} jobs lost, with {changes} changes", jobs - taken);
    Ok(())
}
