//! The log shows who came and went, and with `RUST_LOG=trace` the two phases of each operation.

use anyhow::{Context, Result};

use crate::{Client, Server, Target, timeout, wait_until};
use regex::Regex;

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("connected_and_disconnected", connected_and_disconnected),
    Case::new("two_phases", two_phases),
];

/// Waits until a line of the log matches.
fn shows(server: &Server, pattern: &str) -> Result<()> {
    let line = Regex::new(pattern)?;
    wait_until(&format!("a line like {pattern:?} in the log"), timeout(), || {
        Ok(server.log()?.lines().any(|text| line.is_match(text)).then_some(()))
    })
}

fn connected_and_disconnected(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        let peer = regex::escape(&client.address()?.to_string());
        client.echo(b"hello")?;
        shows(server, &format!("INFO.* {peer} connected$"))?;
        drop(client);
        shows(server, &format!("INFO.* {peer} disconnected"))?;

        let client = Client::connect(server)?;
        let peer = regex::escape(&client.address()?.to_string());
        client.echo(b"hello")?;
        client.reset()?;
        shows(server, &format!("INFO.* {peer} disconnected: ")).context("after a reset")
    })
}

/// `hello` is five bytes.
fn two_phases(target: &Target) -> Result<()> {
    target.quiet().launch().log_level("trace").serve(|server| {
        let client = Client::connect(server)?;
        client.echo(b"hello")?;
        shows(server, "TRACE.*wait: ")?;
        shows(server, r"TRACE.*copy: (aio_)?(read|recv)\(.* 5( |$)")?;
        shows(server, r"TRACE.*copy: (aio_)?(write|send)\(.* 5( |$)")
    })
}
