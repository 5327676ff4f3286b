//! If the server closes the connection first, everything that it has written reaches the client:
//! it drains unread input instead of sending RST.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Need};
use crate::{Client, Target};

pub const CASES: &[Case] = &[
    Case::new(
        "late_input",
        "input that follows the last request does not destroy the response",
        late_input,
    )
    .needs(&[LAST_REQUEST])
    .quick(),
    Case::new(
        "late_input_small_window",
        "a client with a small receive buffer receives the whole last response",
        late_input_small_window,
    )
    .needs(&[LAST_REQUEST]),
];

const LAST_REQUEST: Need = Need::Property(
    |target| target.probe.last_request().is_some(),
    "the server never closes a connection first",
);

/// More than any server reads at once.
const LATE: usize = 200_000;

/// The kernel sends RST if a socket is closed with unread input, and RST discards what the client
/// has not read yet (RFC 9112, section 9.6).
fn late_input(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for _ in 0..5 {
            let client = Client::connect(server)?;
            let request = target.probe.last_request().context("there is no last request")?;
            client.send(&[request, vec![b'x'; LATE]].concat())?;
            // Time for the server to close the connection.
            thread::sleep(Duration::from_millis(100));
            client.expect_response(1).context("the response to the last request")?;
            ensure!(client.drain()?, "the connection did not end");
        }
        Ok(())
    })
}

/// The response is still in the server's send buffer when the server closes the connection.
fn late_input_small_window(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect_narrow(server)?;
        let request = target.probe.last_request().context("there is no last request")?;
        client.send(&request)?;
        thread::sleep(Duration::from_millis(100));
        // It fails if the server has closed the connection for good.
        let _ = client.send(b"late");
        client.expect_response(1).context("the response to the last request")?;
        ensure!(client.drain()?, "the connection did not end");
        Ok(())
    })
}
