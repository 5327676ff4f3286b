//! Makes system calls of a server fail, with a seccomp filter.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

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

/// `io_uring_setup` fails with this error.
pub fn no_io_uring(error: libc::c_int) -> Result<BpfProgram> {
    fail(&[libc::SYS_io_uring_setup], error)
}

/// The largest stack for signal handlers, in bytes, with its guard page.
const SIGNAL_STACK: u64 = 16 * 1024;

/// No thread can map its stack, as in a process that has as many mappings as it may have.
pub fn no_stacks() -> Result<BpfProgram> {
    let stack = libc::MAP_STACK as u64;
    // The flags are the fourth argument of mmap.
    let is_stack =
        SeccompCondition::new(3, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(stack), stack)?;
    // The main thread has a stack for signal handlers already when the program begins. It is small.
    let is_large =
        SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Gt, SIGNAL_STACK)?;
    let rule = SeccompRule::new(vec![is_stack, is_large])?;
    fail_if(BTreeMap::from([(libc::SYS_mmap, vec![rule])]), libc::ENOMEM)
}

fn fail(calls: &[libc::c_long], error: libc::c_int) -> Result<BpfProgram> {
    // Without conditions, a rule matches every call.
    fail_if(calls.iter().map(|&call| (call, Vec::new())).collect(), error)
}

fn fail_if(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    error: libc::c_int,
) -> Result<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().context("no filter for this machine")?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(error as u32),
        architecture,
    )?;
    Ok(filter.try_into()?)
}
