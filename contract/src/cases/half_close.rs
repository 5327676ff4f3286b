//! After the peer's FIN all that is owed is delivered, then the connection is closed.

use std::slice;

use anyhow::{Context, Result};

use crate::client::message;
use crate::{Client, Target, Transfer, transfer};

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("large", large),
    Case::new("small", small),
    Case::new("nothing", nothing),
    Case::new("data_and_fin_at_once", data_and_fin_at_once),
    Case::new("all_before_accepted", all_before_accepted),
    Case::new("reads_late", reads_late),
];

fn large(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut transfer = Transfer::connect(server, 1, 8 << 20)?.then_half_close();
        transfer::run(slice::from_mut(&mut transfer))
    })
}

fn small(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for size in [1, 2, 1000, 50_000] {
            let bytes = message(1, size);
            let client = Client::connect(server)?;
            client.send(&bytes)?;
            client.half_close()?;
            client.expect(&bytes)?;
            client.expect_end()?;
        }
        Ok(())
    })
}

fn nothing(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for _ in 0..10 {
            let client = Client::connect(server)?;
            client.half_close()?;
            client.expect_end()?;
        }
        Ok(())
    })
}

/// Data and FIN are both there when the server looks: one wake-up for the two.
fn data_and_fin_at_once(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        for size in [0, 1, 1000, 50_000] {
            let bytes = message(1, size);
            let client = Client::connect(server)?;
            client.echo(b"in")?;
            server.while_stopped(|| {
                client.send(&bytes)?;
                client.half_close()
            })?;
            client.expect(&bytes).with_context(|| format!("{size} bytes and FIN"))?;
            client.expect_end().with_context(|| format!("after {size} bytes and FIN"))?;
        }
        Ok(())
    })
}

/// The connection, its data and its FIN are all there when the server looks.
fn all_before_accepted(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let bytes = message(1, 1000);
        let clients = server.while_stopped(|| {
            let connect = |_| {
                let client = Client::connect(server)?;
                client.send(&bytes)?;
                client.half_close()?;
                Ok(client)
            };
            (0..10).map(connect).collect::<Result<Vec<_>>>()
        })?;
        for client in clients {
            client.expect(&bytes)?;
            client.expect_end()?;
        }
        Ok(())
    })
}

/// The FIN waits behind more than the server can send: megabytes are owed when it comes.
fn reads_late(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut transfer = Transfer::connect(server, 1, 64 << 20)?;
        transfer.send_until_blocked()?;
        transfer.half_close_here()?;
        transfer::run(slice::from_mut(&mut transfer))
    })
}
