//! The servers that run, so that none outlives this process, and none uses up the machine.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use procfs::process::{Process, all_processes};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};

use crate::usage;

/// What a server may use before it is killed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Threads of all its processes.
    pub threads: u64,
}

/// The leaders of the process groups that run, and why each was killed, if it was.
static RUNNING: Mutex<BTreeMap<i32, Option<String>>> = Mutex::new(BTreeMap::new());

/// How often [`watch`] looks.
const INTERVAL: Duration = Duration::from_millis(100);

fn running() -> MutexGuard<'static, BTreeMap<i32, Option<String>>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn add(leader: Pid) {
    running().insert(leader.as_raw_nonzero().get(), None);
}

pub(crate) fn remove(leader: Pid) {
    running().remove(&leader.as_raw_nonzero().get());
}

/// Why the server was killed, if it was.
pub(crate) fn verdict(leader: Pid) -> Option<String> {
    running().get(&leader.as_raw_nonzero().get()).cloned().flatten()
}

/// Kills all servers that run, with their children.
pub fn kill_all() {
    for &leader in running().keys() {
        if let Some(leader) = Pid::from_raw(leader) {
            // It fails if the server has ended already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Kills the processes that servers have left behind in sessions of their own, and reaps all others.
///
/// They are children of this process if it is a child subreaper (prctl(2)). Otherwise there are none.
pub fn kill_strays() {
    let Ok(processes) = all_processes() else { return };
    let Ok(own) = Process::myself().and_then(|process| process.stat()) else { return };
    // The session is 0 if its leader is outside of this PID namespace (pid_namespaces(7)).
    let (own_pid, own_session) = (own.pid, own.session);
    for process in processes.flatten() {
        let Ok(stat) = process.stat() else { continue };
        // The servers that were started here lead groups in the session of this process. Their
        // owners wait for them.
        if stat.ppid != own_pid || stat.pid == stat.pgrp && stat.session == own_session {
            continue;
        }
        // The group is -1 while the kernel removes a process that has ended.
        if stat.pid <= 0 || stat.pgrp <= 0 {
            continue;
        }
        let (Some(pid), Some(group)) = (Pid::from_raw(stat.pid), Pid::from_raw(stat.pgrp)) else {
            continue;
        };
        if stat.session != own_session {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        } else if stat.state == 'Z' {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// From now on kills each server that uses more than this.
pub fn watch(limits: Limits) {
    thread::spawn(move || {
        loop {
            thread::sleep(INTERVAL);
            let leaders: Vec<_> = running().keys().copied().collect();
            for leader in leaders.into_iter().filter_map(Pid::from_raw) {
                // A server that has ended meanwhile needs no check.
                let Ok(Some(excess)) = excess(leader, limits) else { continue };
                if let Some(verdict) = running().get_mut(&leader.as_raw_nonzero().get()) {
                    *verdict = Some(excess);
                }
                let _ = kill_process_group(leader, Signal::KILL);
            }
        }
    });
}

fn excess(leader: Pid, limits: Limits) -> Result<Option<String>> {
    let (mut memory, mut threads) = (0, 0);
    for process in usage::group(leader)? {
        let Ok(stat) = process.stat() else { continue };
        memory += stat.rss * procfs::page_size();
        threads += u64::try_from(stat.num_threads)?;
    }
    let megabytes = |bytes: u64| bytes >> 20;
    Ok(if memory > limits.memory {
        Some(format!(
            "killed, because it used more than {} MiB of memory",
            megabytes(limits.memory)
        ))
    } else if threads > limits.threads {
        Some(format!("killed, because it had more than {} threads", limits.threads))
    } else {
        None
    })
}
