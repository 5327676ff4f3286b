//! A client that has vanished without FIN or RST is noticed, and its connection is released.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{SockFilter, SockRef, TcpKeepalive};

use crate::case::{Case, Need};
use crate::probe::Protocol;
use crate::sockets::{self, KEEPALIVE};
use crate::wait::seconds;
use crate::{Client, Target, timeout, wait_until};

pub const CASES: &[Case] = &[
    Case::new("keepalive", "TCP keepalive is on for each connection", keepalive)
        .needs(&[Need::Persistent])
        .quick(),
    Case::new(
        "vanished_clients",
        "the connections of clients that have vanished are released",
        vanished_clients,
    )
    .needs(&[Need::Process, Need::Persistent]),
];

/// The kernel shows which timer of a socket runs: on an idle connection it is keepalive, or none.
fn keepalive(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = Client::connect(server)?;
        target.greet(&client)?;
        let address = client.address()?;
        let mut timer = 0;
        // The retransmission timer may still run for a moment.
        let found = wait_until("the keepalive timer", Duration::from_secs(2), || {
            let socket = sockets::server_side(address, server.address())?;
            timer = socket.context("/proc/net/tcp does not show the server's socket")?.timer;
            Ok((timer == KEEPALIVE).then_some(()))
        });
        if found.is_ok() {
            return Ok(());
        }
        let Some(limit) = target.properties.idle_timeout else {
            anyhow::bail!(
                "keepalive is off: the server keeps the connection of a client that has vanished \
                 for ever, unless it closes idle connections (then say so with --idle-timeout)"
            );
        };
        wait_until("the server to close an idle connection", limit * 2, || {
            let socket = sockets::server_side(address, server.address())?;
            Ok(socket.is_none_or(|socket| socket.state != sockets::ESTABLISHED).then_some(()))
        })
    })
}

/// The clients drop every packet from the server, as if the network were down. The case shortens
/// the keepalive times of the server's sockets, through duplicates of their file descriptors.
fn vanished_clients(target: &Target) -> Result<()> {
    let count = match target.probe.protocol {
        // A chat tells the room that a client has left. That line would stay unacknowledged in the
        // connection of another vanished client, and keepalive waits while output is
        // unacknowledged. So one client vanishes, from a room that is quiet.
        Protocol::Chat => 1,
        _ => target.properties.max_concurrent.min(5),
    };
    let times = TcpKeepalive::new()
        .with_time(Duration::from_secs(1))
        .with_interval(Duration::from_secs(1))
        .with_retries(2);
    target.launch().serve(|server| {
        target.greet(&Client::connect(server)?)?;
        let before = super::leaks::usage_at_rest(server)?;
        let clients: Vec<_> = (0..count).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        clients.iter().try_for_each(|client| target.greet(client))?;
        for client in &clients {
            let duplicate = server.duplicate_socket(client.address()?)?;
            let socket = SockRef::from(&duplicate);
            ensure!(
                socket.keepalive()? || target.properties.idle_timeout.is_some(),
                "keepalive is off"
            );
            // Not SO_KEEPALIVE itself: the server has to turn it on.
            set_keepalive_times(&socket, &times)?;
        }
        for client in &clients {
            drop_all_packets(client)?;
        }
        let limit = target.properties.idle_timeout.unwrap_or_default() + Duration::from_secs(4);
        let limit = limit + timeout();
        wait_until("the connections of vanished clients to be released", limit, || {
            let now = server.usage()?;
            // A runtime, such as Go's, may keep a thread for later.
            let threads_ended = target.entry().is_none() || now.threads <= before.threads;
            let released = now.descriptors <= before.descriptors
                && threads_ended
                && now.processes <= before.processes;
            Ok(released.then_some(()))
        })
        .with_context(|| format!("keepalive gives up after {}", seconds(Duration::from_secs(3))))?;
        thread::sleep(Duration::from_millis(50));
        target.greet(&Client::connect(server)?).context("after clients have vanished")
    })
}

fn set_keepalive_times(socket: &SockRef, times: &TcpKeepalive) -> Result<()> {
    // socket2 turns keepalive on along with the times.
    let on = socket.keepalive()?;
    socket.set_tcp_keepalive(times)?;
    socket.set_keepalive(on)?;
    Ok(())
}

/// From now on, the kernel drops every packet for this socket before TCP sees it, so it answers
/// neither data nor keepalive probes.
fn drop_all_packets(client: &Client) -> Result<()> {
    // BPF: return 0, that is, keep 0 bytes of the packet.
    let drop_it = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    SockRef::from(client.stream()).attach_filter(&[drop_it])?;
    Ok(())
}
