//! Processor time, memory, descriptors, threads and processes of a server, from `/proc`.

use std::time::Duration;

use anyhow::{Context, Result};
use procfs::process::{Process, all_processes};
use rustix::process::Pid;

/// What a server and all its children take at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes that run.
    pub processes: usize,
    /// Processes that have ended, and whose parent has not asked for their status.
    pub zombies: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Open descriptors of all processes.
    pub descriptors: usize,
    /// Bytes of memory that no file stands behind: heap and stacks.
    ///
    /// From `smaps_rollup`, which counts pages; `RssAnon` in `status` is a sum of counters kept
    /// on each processor, and many kernels since 6.2 show it with an error of 256 KiB and more.
    pub memory: u64,
    /// Processor time used since the start, of children that are gone too.
    pub cpu: Duration,
    /// Time for which threads that are still there could have run, and other processes did.
    pub waited: Duration,
    /// How often a thread stopped running, of its own accord or not. It counts what is too short
    /// for the ticks of `cpu`.
    pub switches: u64,
}

impl Usage {
    /// Of the process group of `leader`.
    pub fn of(leader: Pid) -> Result<Self> {
        let mut sum = Self::default();
        for process in group(leader)? {
            // A process or thread that ends while we look at it counts for nothing.
            let _ = sum.add(&process);
        }
        Ok(sum)
    }

    fn add(&mut self, process: &Process) -> Result<()> {
        let stat = process.stat()?;
        let children = u64::try_from(stat.cutime + stat.cstime)?;
        let ticks = stat.utime + stat.stime + children;
        self.cpu += Duration::from_millis(ticks * 1000 / procfs::ticks_per_second());
        if stat.state == 'Z' {
            self.zombies += 1;
            return Ok(());
        }
        self.processes += 1;
        self.threads += usize::try_from(stat.num_threads)?;
        self.descriptors += process.fd_count()?;
        for area in process.smaps_rollup()?.memory_map_rollup {
            self.memory += area.extension.map.get("Anonymous").copied().unwrap_or(0);
        }
        for task in process.tasks()?.flatten() {
            if let Ok(times) = task.schedstat() {
                self.waited += Duration::from_nanos(times.run_delay);
            }
            let Ok(status) = task.status() else { continue };
            self.switches += status.voluntary_ctxt_switches.unwrap_or(0);
            self.switches += status.nonvoluntary_ctxt_switches.unwrap_or(0);
        }
        Ok(())
    }
}

/// Whether every process of the group is stopped by SIGSTOP.
pub(crate) fn all_stopped(leader: Pid) -> Result<bool> {
    let stats = group(leader)?.into_iter().filter_map(|process| process.stat().ok());
    Ok(stats.filter(|stat| stat.state != 'Z').all(|stat| stat.state == 'T'))
}

/// Whether every thread of the group sleeps, until something happens.
pub(crate) fn all_asleep(leader: Pid) -> Result<bool> {
    for process in group(leader)? {
        for task in process.tasks()?.flatten() {
            if task.stat().is_ok_and(|stat| stat.state != 'S') {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The numbers of the open descriptors of the process.
///
/// Not all need be its own doing: it inherits what the environment of the tests leaves open.
pub(crate) fn open_descriptors(pid: Pid) -> Result<Vec<u64>> {
    let open = process(pid)?.fd()?.flatten().map(|descriptor| descriptor.fd as u64);
    Ok(open.collect())
}

/// The processes of the group: a server starts one, and its children are in it.
fn group(leader: Pid) -> Result<Vec<Process>> {
    let all = all_processes()?.flatten();
    let ours = |process: &Process| {
        process.stat().is_ok_and(|stat| stat.pgrp == leader.as_raw_nonzero().get())
    };
    Ok(all.filter(ours).collect())
}

fn process(pid: Pid) -> Result<Process> {
    Process::new(pid.as_raw_nonzero().get()).context("the server is gone")
}
