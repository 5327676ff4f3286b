//! Starts the server once, to learn what it needs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use contract::client::{Reply, connect_many};
use contract::probe::Protocol;
use contract::target::Origin;
use contract::{Client, Server, Target};

use crate::options::Options;

/// File descriptors that the server gets for its clients when it is to run out of them. Some
/// servers reserve some: redis 32.
const FOR_CLIENTS: usize = 64;
/// How long it may take to connect the idle clients of a case.
const CONNECTING: Duration = Duration::from_secs(4);
const FEWEST_IDLE_CLIENTS: usize = 10;
/// The largest limit that is tried, if the server does not start with a lower one.
const HIGHEST_LIMIT: u64 = 4096;

/// Checks that the server starts and responds. Returns the target with what was learned.
pub fn examine(mut target: Target, options: &Options) -> Result<Target> {
    let mut server = target.launch().start().context("cannot start the server")?;
    if let Origin::Running(address) = target.origin {
        Client::connect(&server).with_context(|| format!("cannot reach a server at {address}"))?;
    }
    let result = responds(&target, &server);
    let result = if target.is_started_here() { server.check_result(result) } else { result };
    result.context("the server does not respond as expected; is --probe right?")?;
    let is_chat = matches!(target.probe.protocol, Protocol::Chat);
    target.probe.persistent = is_chat || keeps_connections(&server)?;
    if target.is_started_here() {
        target.properties.backlog = backlog(&server, target.properties.backlog)?;
    }
    drop(server);
    // From here on with what was learned.
    let mut server = target.launch().start()?;
    let result = responds(&target, &server);
    if target.is_started_here() {
        // The first one may have been about to put itself into the background.
        server.check_result(result)?;
    }
    if options.idle_clients.is_none() && !is_chat {
        // If they cannot connect, the cases will say so.
        let possible = connected_within(&target, &server, CONNECTING).unwrap_or_default();
        let most = target.properties.idle_clients;
        target.properties.idle_clients = most.min(possible.max(FEWEST_IDLE_CLIENTS));
    }
    if target.is_started_here() && options.fd_limit.is_none() {
        let limit = server.fd_limit_for(FOR_CLIENTS);
        let limit = limit.context("cannot look at the server's process")?;
        drop(server);
        target.properties.fd_limit = lowest_limit(&target, limit);
    }
    Ok(target)
}

/// How many clients can connect in this time.
fn connected_within(target: &Target, server: &Server, time: Duration) -> Result<usize> {
    const CLIENTS: usize = 20;
    let count = target.properties.max_concurrent.min(CLIENTS);
    let start = Instant::now();
    connect_many(server, count)?;
    let each = start.elapsed() / count as u32;
    Ok((time.as_nanos() / each.as_nanos().max(1)) as usize)
}

/// Whether the server responds to one of three clients. That it responds to all of them is a matter
/// of the cases.
fn responds(target: &Target, server: &Server) -> Result<()> {
    let mut result = Ok(());
    for _ in 0..3 {
        result = Client::connect(server).and_then(|client| target.greet(&client));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Whether a connection is still open some time after a response.
fn keeps_connections(server: &Server) -> Result<bool> {
    const TIME: Duration = Duration::from_millis(300);
    let client = Client::connect(server)?;
    client.exchange(1)?;
    if client.wait_for_input(TIME).is_err() {
        return Ok(true); // nothing came, not even EOF
    }
    Ok(client.expect_response_or_end(1).is_ok_and(|reply| reply == Reply::Response))
}

/// How many clients can connect while the server does not accept, up to `most`.
fn backlog(server: &Server, most: usize) -> Result<usize> {
    let mut clients = Vec::new();
    server.while_stopped(|| {
        while clients.len() < most {
            let Some(client) = Client::try_connect(server)? else { break };
            clients.push(client);
        }
        Ok(())
    })?;
    Ok(clients.len().max(1))
}

/// The lowest limit of file descriptors, not below `limit`, under which the server starts.
fn lowest_limit(target: &Target, limit: u64) -> u64 {
    let mut limit = limit.max(target.properties.fd_limit);
    while limit < HIGHEST_LIMIT {
        let server = target.launch().fd_limit(limit).start();
        if server.is_ok_and(|server| responds(target, &server).is_ok()) {
            break;
        }
        limit *= 2;
    }
    limit
}
