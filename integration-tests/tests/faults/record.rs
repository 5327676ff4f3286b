//! The system calls that a server makes, recorded with strace.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use contract::Target;
use contract::catalog::{Entry, Kind};

use crate::injection::Tracer;
use crate::load;

/// Why this machine cannot trace another process, if so.
pub fn cannot_trace() -> Option<&'static str> {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", "inject=getppid:error=EPERM", "true"]);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Err(_) => Some("strace is not installed"),
        Ok(status) if !status.success() => Some("strace may not trace here"),
        Ok(_) => None,
    }
}

/// Returns the names of the calls that a server makes after it has announced itself, under the load.
pub fn calls(entry: &'static Entry) -> Result<BTreeSet<String>> {
    static RECORDED: Mutex<Option<HashMap<&str, BTreeSet<String>>>> = Mutex::new(None);
    let mut recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
    let recorded = recorded.get_or_insert_default();
    if let Some(calls) = recorded.get(entry.name) {
        return Ok(calls.clone());
    }
    let calls = record(entry).with_context(|| format!("recording {}", entry.name))?;
    recorded.insert(entry.name, calls.clone());
    Ok(calls)
}

fn record(entry: &'static Entry) -> Result<BTreeSet<String>> {
    let server = Target::from(entry).quiet().launch().log_level("info").start()?;
    let file = tempfile::NamedTempFile::new()?;
    let tracer = Tracer::start(server.pid()?, &[OsStr::new("-o"), file.path().as_os_str()])?;
    load::run(server.address(), entry.kind == Kind::Chat)?;
    drop(tracer);

    let mut calls = BTreeSet::new();
    for line in fs::read_to_string(file.path())?.lines() {
        // "1234  accept4(3, …" or "1234  <... accept4 resumed>…"
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let name: String =
            line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && line[name.len()..].starts_with('(') {
            calls.insert(name);
        }
    }
    Ok(calls)
}
