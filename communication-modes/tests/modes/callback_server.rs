//! `callback serve`: requests of all kinds.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::support::{server, trials};

pub fn trials() -> Vec<Trial> {
    trials!("callback_server":
        works_on_many_requests answers_everything_after_a_fin a_request_that_is_cut_off
        a_client_that_does_not_read
    )
}

fn works_on_many_requests() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("1 1500 slow\n2 1 quick\n")?;
    peer.lines(&["2 kciuq", "1 wols"])?;
    // More than it works on at the same time: the rest waits, and none is lost.
    for id in 0..300 {
        peer.send(format!("{id} 1 äbc\n"))?;
    }
    let mut ids = Vec::new();
    for _ in 0..300 {
        let line = peer.line()?;
        let (id, text) = line.split_once(' ').unwrap_or_default();
        ensure!(text == "cbä", "{line}");
        ids.push(id.parse::<u64>()?);
    }
    ids.sort_unstable();
    ensure!(ids.into_iter().eq(0..300));
    Ok(())
}

fn answers_everything_after_a_fin() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("1 1500 a\n2 800 b\n3 1 c\n")?;
    peer.finish()?;
    peer.lines(&["3 c", "2 b", "1 a"])?;
    ensure!(peer.rest()?.is_empty());
    Ok(())
}

fn a_request_that_is_cut_off() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("1 200 whole\n2 1 cut")?;
    peer.finish()?;
    peer.lines(&["1 elohw"])?;
    ensure!(peer.rest()?.is_empty(), "half a request was executed");
    server.expect("in the middle of a line").map(drop)
}

fn a_client_that_does_not_read() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut silent = Peer::connect(&server.addr)?;
    let request = format!("1 0 {}\n", "x".repeat(4000));
    silent.stream().set_write_timeout(Some(Duration::from_millis(300)))?;
    let mut sent = 0;
    while silent.send(&request).is_ok() {
        sent += request.len();
        ensure!(sent < 64 << 20, "the server reads from a client that does not");
    }
    let mut other = Peer::connect(&server.addr)?;
    other.send("1 1 abc\n")?;
    other.lines(&["1 cba"])
}
