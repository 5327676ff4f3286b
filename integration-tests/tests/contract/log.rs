//! The log shows who came and went, and with `RUST_LOG=trace` the two phases of each operation.

use anyhow::{Context, Result};
use integration_tests::{Client, Running, Server, patience, until};
use regex::Regex;

use crate::case::Case;

pub const CASES: &[Case] =
    &[Case::new("who_came_and_went", who_came_and_went), Case::new("two_phases", two_phases)];

/// Waits until a line of the log matches.
fn shows(running: &Running, pattern: &str) -> Result<()> {
    let line = Regex::new(pattern)?;
    until(&format!("a line like {pattern:?} in the log"), patience(), || {
        Ok(running.log()?.lines().any(|text| line.is_match(text)).then_some(()))
    })
}

fn who_came_and_went(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let client = Client::connect(running)?;
        let peer = regex::escape(&client.address()?.to_string());
        client.echo(b"hello")?;
        shows(running, &format!("INFO.* {peer} came$"))?;
        drop(client);
        shows(running, &format!("INFO.* {peer} left"))?;

        let client = Client::connect(running)?;
        let peer = regex::escape(&client.address()?.to_string());
        client.echo(b"hello")?;
        client.reset()?;
        shows(running, &format!("INFO.* {peer} left: ")).context("after a reset")
    })
}

/// `hello` is five bytes.
fn two_phases(server: &Server) -> Result<()> {
    server.calm().launch().log("trace").serve(|running| {
        let client = Client::connect(running)?;
        client.echo(b"hello")?;
        shows(running, "TRACE.*wait: ")?;
        shows(running, r"TRACE.*copy: (aio_)?(read|recv)\(.* 5( |$)")?;
        shows(running, r"TRACE.*copy: (aio_)?(write|send)\(.* 5( |$)")
    })
}
