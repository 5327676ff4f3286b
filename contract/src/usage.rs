//! Processor time, memory, file descriptors, threads and processes of a server, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use procfs::process::{Process, all_processes};
use rustix::process::Pid;

/// What a server and all its children use at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes, without zombies.
    pub processes: usize,
    /// Processes that have ended, but whose parent has not called `wait`.
    pub zombies: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Open file descriptors of all processes.
    pub descriptors: usize,
    /// Bytes of anonymous memory: heap and stacks.
    ///
    /// Read from `smaps_rollup`, which counts pages. `RssAnon` in `status` adds up counters per
    /// processor, and in many kernels since 6.2 it is wrong by 256 KiB and more.
    pub memory: u64,
    /// Processor time since the start, with that of children that have ended.
    pub cpu: Duration,
    /// How long the threads were ready to run while other processes ran.
    pub waited: Duration,
    /// How often a thread stopped running, voluntarily or not. This also counts work that is too
    /// short for the clock ticks of `cpu`.
    pub switches: u64,
}

impl Usage {
    /// The usage of the process group of `leader`.
    pub fn of(leader: Pid) -> Result<Self> {
        let mut sum = Self::default();
        for process in group(leader)? {
            // A process or thread that ends meanwhile is not counted.
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

/// Whether SIGSTOP has stopped every process of the group.
pub(crate) fn all_stopped(leader: Pid) -> Result<bool> {
    let stats = group(leader)?.into_iter().filter_map(|process| process.stat().ok());
    Ok(stats.filter(|stat| stat.state != 'Z').all(|stat| stat.state == 'T'))
}

/// Whether every thread of the group sleeps in a system call.
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

/// The open file descriptors of the process.
///
/// The process has inherited some of them, if the environment of the tests leaves them open.
pub(crate) fn open_descriptors(pid: Pid) -> Result<Vec<u64>> {
    let open = process(pid)?.fd()?.flatten().map(|descriptor| descriptor.fd as u64);
    Ok(open.collect())
}

/// The processes of the group: the server, and the children that it has started.
pub(crate) fn group(leader: Pid) -> Result<Vec<Process>> {
    let all = all_processes()?.flatten();
    let in_group = |process: &Process| {
        process.stat().is_ok_and(|stat| stat.pgrp == leader.as_raw_nonzero().get())
    };
    Ok(all.filter(in_group).collect())
}

/// The children of the process, also those that have ended and were not reaped.
pub fn children(parent: Pid) -> Result<Vec<Process>> {
    let parent = parent.as_raw_nonzero().get();
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let Ok(list) = list else {
        // This kernel does not have the list (CONFIG_PROC_CHILDREN).
        let all = all_processes()?.flatten();
        let is_child = |it: &Process| it.stat().is_ok_and(|stat| stat.ppid == parent);
        return Ok(all.filter(is_child).collect());
    };
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    Ok(pids.filter_map(|pid| Process::new(pid).ok()).collect())
}

fn process(pid: Pid) -> Result<Process> {
    Process::new(pid.as_raw_nonzero().get()).context("the server has ended")
}
