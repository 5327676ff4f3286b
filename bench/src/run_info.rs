//! How the samples were taken, and on which machine. `run.json` beside the samples.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::syscalls::Counter;

#[derive(Debug, Serialize, Deserialize)]
pub struct RunInfo {
    pub rounds: usize,
    /// The duration of a sample.
    pub sample_seconds: f64,
    /// What counted the system calls.
    pub counter: Counter,
    /// Whether the servers were built with optimization.
    pub optimized: bool,
    /// The machine, one fact per line.
    pub machine: Vec<String>,
}

impl RunInfo {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Fails if there is no such file, or if it has other contents.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot_read = || format!("cannot read {}", path.display());
        let text = fs::read_to_string(path).with_context(cannot_read)?;
        serde_json::from_str(&text).with_context(cannot_read)
    }

    /// Writes the file at `path`.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
