//! Makes system calls of a server fail, with a seccomp filter.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::case::Need;

/// For the cases that use a filter.
pub const SECCOMP: Need = Need::Machine(|| {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let available = actions.is_ok_and(|actions| actions.contains("errno"));
    (!available).then_some("the kernel has no seccomp filters")
});

/// `accept` fails with EPERM, as under a security module. It takes nothing from the queue.
pub fn no_accept() -> Result<BpfProgram> {
    fail(&[libc::SYS_accept, libc::SYS_accept4], libc::EPERM)
}

/// No thread and no process can be created.
pub fn no_clone() -> Result<BpfProgram> {
    fail(&[libc::SYS_clone, libc::SYS_clone3], libc::EAGAIN)
}

fn fail(calls: &[libc::c_long], error: libc::c_int) -> Result<BpfProgram> {
    // Without conditions, a rule matches every call.
    let rules: BTreeMap<_, _> = calls.iter().map(|&call| (call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().context("no filter for this machine")?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(error as u32),
        architecture,
    )?;
    Ok(filter.try_into()?)
}
