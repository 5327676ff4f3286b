//! The log shows who connected and disconnected, and with `RUST_LOG=trace` the two phases of each
//! operation. Serving does not depend on who reads the log.

use anyhow::{Context, Result};
use regex::Regex;
use rustix::process::Signal;

use super::shutdown;
use crate::case::{Case, Need};
use crate::server::full_pipe;
use crate::{Client, Server, Target, timeout, wait_until};

pub const CASES: &[Case] = &[
    Case::new(
        "connected_and_disconnected",
        "the log shows each client that connects and disconnects",
        connected_and_disconnected,
    )
    .needs(&[Need::Workspace]),
    Case::new(
        "two_phases",
        "with RUST_LOG=trace the log shows the waits and the copies",
        two_phases,
    )
    .needs(&[Need::Workspace]),
    RESET_BEFORE_ACCEPT,
    FULL_PIPE,
];

/// For every kind of server with connections.
pub const RESET_BEFORE_ACCEPT: Case = Case::new(
    "reset_before_accept",
    "the log shows a connection that is reset before the server accepts it",
    reset_before_accept,
)
.needs(&[Need::Workspace]);

/// For every kind of server.
pub const FULL_PIPE: Case = Case::new(
    "full_pipe",
    "the server serves and stops although nobody reads its log",
    full_pipe_case,
)
.needs(&[Need::Process]);

/// Waits until a line of the log matches.
pub fn expect_line(server: &Server, pattern: &str) -> Result<()> {
    let line = Regex::new(pattern)?;
    wait_until(&format!("a line of the log that matches {pattern:?}"), timeout(), || {
        Ok(server.log()?.lines().any(|text| line.is_match(text)).then_some(()))
    })
}

fn connected_and_disconnected(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        let peer = regex::escape(&client.address()?.to_string());
        client.exchange(1)?;
        expect_line(server, &format!("INFO.* {peer} connected$"))?;
        drop(client);
        expect_line(server, &format!("INFO.* {peer} disconnected"))?;

        let client = Client::connect(server)?;
        let peer = regex::escape(&client.address()?.to_string());
        client.exchange(1)?;
        client.reset()?;
        expect_line(server, &format!("INFO.* {peer} disconnected: ")).context("after a reset")
    })
}

/// `hello` is five bytes.
fn two_phases(target: &Target) -> Result<()> {
    target.quiet().launch().log_level("trace").serve(|server| {
        let client = Client::connect(server)?;
        client.echo(b"hello")?;
        expect_line(server, "TRACE.*wait: ")?;
        expect_line(server, r"TRACE.*copy: (aio_)?(read|recv)\(.* 5( |$)")?;
        expect_line(server, r"TRACE.*copy: (aio_)?(write|send)\(.* 5( |$)")
    })
}

/// accept(2) returns the connection together with the address of its peer. An accept through
/// `io_uring` returns the connection alone. Its peer then has no address any more.
fn reset_before_accept(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let address = server.while_stopped(|| {
            let client = Client::connect(server)?;
            let address = client.address()?;
            client.reset()?;
            Ok(address)
        })?;
        let peer = regex::escape(&address.to_string());
        let failed = "a connection failed before it was accepted: ";
        expect_line(server, &format!("INFO.* ({peer} connected$|{failed})"))
    })
}

/// A write to a full pipe blocks, and so does a write to a terminal after Ctrl-S.
fn full_pipe_case(target: &Target) -> Result<()> {
    let (writer, _reader) = full_pipe()?;
    target.launch().log_level("trace").stderr(writer).serve(|server| {
        for _ in 0..3 {
            target.greet(&Client::connect(server)?).context("while nobody reads the log")?;
        }
        shutdown::ends(target, server, Signal::TERM).context("while nobody reads the log")
    })
}
