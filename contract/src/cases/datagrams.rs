//! The contract of a server without connections: each datagram is answered once, whole, from the
//! address to which it was sent.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use socket2::SockRef;

use super::idle::expect_no_wakeups;
use super::start;
use crate::wait::{TIMEOUT, seconds};
use crate::{Case, Server, Target, case};

/// In the order of the contract. The lines that are missing are about connections (accept,
/// half-close, limits), or about the socket of each client (backpressure, fairness).
pub const LINES: super::Lines = &[
    (
        "isolation",
        &[Case::new(
            "peers_that_have_left",
            "peers that have left do no harm",
            peers_that_have_left,
        )],
    ),
    (
        "integrity",
        &[
            Case::new("sizes", "datagrams of all sizes come back", sizes),
            Case::new("bursts", "datagrams that arrive at once all come back", bursts).exclusive(),
            Case::new("address_asked", "the reply comes from the address asked", address_asked),
            Case::new("dual_stack", "on [::] the server serves IPv4 and IPv6", dual_stack)
                .needs(&[start::IPV6]),
            Case::new("link_local", "a link-local address answers", link_local)
                .needs(&[start::IPV6, LINK_LOCAL]),
            Case::new("multicast", "a datagram to a multicast group is answered", multicast)
                .needs(&[start::IPV6, LINK_LOCAL]),
        ],
    ),
    (
        "interruption",
        &[Case::new("idle", "SIGSTOP and SIGCONT do not disturb the server", interruption)],
    ),
    (
        "shutdown",
        &[
            Case::new("sigint_flood", "SIGINT ends the server during a flood", |target| {
                flooded(target, Signal::INT)
            })
            .exclusive(),
            Case::new("sigterm_flood", "SIGTERM ends the server during a flood", |target| {
                flooded(target, Signal::TERM)
            })
            .exclusive(),
        ],
    ),
    ("leaks", &[Case::new("rounds_of_500", "500 peers leave nothing behind", leaks)]),
    (
        "start",
        &[
            start::IN_USE,
            start::UNPARSABLE,
            start::UNRESOLVABLE,
            start::NOT_ASSIGNED,
            start::NOT_UTF8,
            start::SURPLUS_ARGUMENT,
            start::UNKNOWN_OPTION,
            start::HELP,
        ],
    ),
    (
        "idle",
        &[Case::new("no_processor_time", "the server does not wake up while nobody sends", idle)],
    ),
    (
        "log",
        &[Case::new(
            "full_pipe",
            "the server serves and stops although nobody reads its log",
            full_pipe,
        )],
    ),
];

/// The largest payload over IPv4: 65,535 less the headers.
const LARGEST: usize = 65_507;
/// The most that the kernel counts for a small datagram in a socket's buffer.
const ACCOUNTED: usize = 1024;

const LINK_LOCAL: case::Need = case::Need::Machine(|| {
    link_local_address().is_none().then_some("this machine has no link-local address")
});

/// A peer that receives from `server` only: the kernel drops what comes from another address.
fn peer(server: SocketAddr) -> Result<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    // A reply that does not arrive was then not lost at this end.
    SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
    Ok(socket)
}

fn echo(peer: &UdpSocket, message: &[u8]) -> Result<()> {
    peer.send(message)?;
    let mut reply = vec![0; LARGEST + 1];
    let what = || format!("no reply to {} bytes", message.len());
    let count = peer.recv(&mut reply).with_context(what)?;
    ensure!(reply[..count] == *message, "the reply to {} bytes has {count}", message.len());
    Ok(())
}

fn sizes(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let peer = peer(server.address())?;
        for size in [0, 1, 2, 511, 512, 1471, 1472, 1473, 9000, 65_000, LARGEST - 1, LARGEST, 0] {
            echo(&peer, &vec![size as u8; size])?;
        }
        Ok(())
    })
}

/// Several peers send while the server is stopped: as much as its buffer is sure to hold.
fn bursts(target: &Target) -> Result<()> {
    const PEERS: usize = 8;
    const TOTAL: usize = 5000;
    let most: usize = fs::read_to_string("/proc/sys/net/core/rmem_max")?.trim().parse()?;
    // The server asks for more than this, and the kernel doubles what it grants.
    let burst = (2 * most.min(8 << 20) / ACCOUNTED).min(TOTAL) / PEERS;
    target.launch().serve(|server| {
        let peers: Vec<_> = (0..PEERS).map(|_| peer(server.address())).collect::<Result<_>>()?;
        peers.iter().try_for_each(|peer| echo(peer, b"ready?"))?;
        let mut next = 0_u32;
        while (next as usize) < TOTAL {
            let numbers = next..next + burst as u32;
            next = numbers.end;
            server.while_stopped(|| {
                for peer in &peers {
                    for number in numbers.clone() {
                        peer.send(&number.to_be_bytes()).context("cannot send")?;
                    }
                }
                Ok(())
            })?;
            for peer in &peers {
                let mut expected: HashSet<_> = numbers.clone().map(u32::to_be_bytes).collect();
                while !expected.is_empty() {
                    let mut reply = [0; 4];
                    let missing = || format!("{} of {burst} replies are missing", expected.len());
                    peer.recv(&mut reply).with_context(missing)?;
                    ensure!(expected.remove(&reply), "received {reply:?}, which was not expected");
                }
            }
        }
        Ok(())
    })
}

/// A machine has several addresses, and a peer takes a reply from the address it asked only.
fn address_asked(target: &Target) -> Result<()> {
    target.launch_with(["0.0.0.0:0"]).serve(|server| {
        let port = server.address().port();
        (1..=3).try_for_each(|last| {
            let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
            echo(&peer(asked)?, b"hello").with_context(|| asked.to_string())
        })
    })
}

fn dual_stack(target: &Target) -> Result<()> {
    target.launch_with(["[::]:0"]).serve(|server| {
        let port = server.address().port();
        for asked in [Ipv4Addr::new(127, 0, 0, 2).into(), Ipv6Addr::LOCALHOST.into()] {
            let asked = SocketAddr::new(asked, port);
            echo(&peer(asked)?, b"hello").with_context(|| asked.to_string())?;
        }
        Ok(())
    })
}

/// The IPv6 addresses of this machine, each with its interface.
fn ipv6_addresses() -> Vec<SocketAddrV6> {
    let table = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let interface = u32::from_str_radix(fields.next()?, 16).ok()?;
        Some(SocketAddrV6::new(Ipv6Addr::from(address), 0, 0, interface))
    };
    table.lines().filter_map(parse).collect()
}

/// The first link-local address of this machine.
fn link_local_address() -> Option<SocketAddrV6> {
    ipv6_addresses().into_iter().find(|address| address.ip().is_unicast_link_local())
}

/// A link-local address means nothing without its interface, so the reply needs both.
fn link_local(target: &Target) -> Result<()> {
    let mut asked = link_local_address().context("there is no link-local address")?;
    let global = ipv6_addresses().into_iter().find(|address| {
        address.scope_id() == asked.scope_id() && !address.ip().is_unicast_link_local()
    });
    target.launch_with(["[::]:0"]).serve(|server| {
        asked.set_port(server.address().port());
        echo(&peer(asked.into())?, b"hello").context("from a link-local address")?;
        let Some(global) = global else { return Ok(()) };
        let socket = UdpSocket::bind((*global.ip(), 0))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(asked)?;
        echo(&socket, b"hello").context("from a global address")
    })
}

/// No reply can have a multicast group as its source address, so the kernel has to choose one.
fn multicast(target: &Target) -> Result<()> {
    let interface = link_local_address().context("there is no link-local address")?.scope_id();
    target.launch_with(["[::]:0"]).serve(|server| {
        // All nodes on the link (RFC 4291, section 2.7.1).
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let group = SocketAddrV6::new(all_nodes, server.address().port(), 0, interface);
        let socket = UdpSocket::bind("[::]:0")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_multicast_loop_v6(true)?;
        socket.send_to(b"hello", group).context("cannot send to the group")?;
        let (count, from) = socket.recv_from(&mut [0; 16]).context("from a multicast group")?;
        ensure!(count == 5 && !from.ip().is_multicast(), "the reply came from {from}");
        Ok(())
    })
}

/// Replies to them come back as ICMP errors, which the kernel may report on the server's socket.
fn peers_that_have_left(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let healthy = peer(server.address())?;
        for _ in 0..100 {
            server.while_stopped(|| Ok(peer(server.address())?.send(b"and closed")?))?;
            echo(&healthy, b"here")?;
        }
        Ok(())
    })
}

fn interruption(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let peer = peer(server.address())?;
        for _ in 0..20 {
            server.while_stopped(|| Ok(peer.send(b"meanwhile")?))?;
            let mut reply = [0; 16];
            let count = peer.recv(&mut reply).context("no reply after SIGSTOP and SIGCONT")?;
            ensure!(reply[..count] == *b"meanwhile", "another reply");
            server.while_stopped(|| Ok(()))?;
            echo(&peer, b"after")?;
        }
        Ok(())
    })
}

fn idle(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        echo(&peer(server.address())?, b"ready?")?;
        expect_no_wakeups(server).context("while nobody sends")
    })
}

fn leaks(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let serve_all = |server: &Server| {
            (0..500).try_for_each(|size| echo(&peer(server.address())?, &vec![1; size * 100]))
        };
        serve_all(server)?;
        let before = server.usage()?;
        serve_all(server)?;
        let after = server.usage()?;
        let grown = after.memory.saturating_sub(before.memory);
        ensure!(after.descriptors == before.descriptors, "descriptors: {before:?}, {after:?}");
        ensure!(after.threads == before.threads, "threads: {before:?}, {after:?}");
        ensure!(grown < 1 << 20, "500 peers left {grown} bytes behind");
        Ok(())
    })
}

fn flooded(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let flood = peer(server.address())?;
        echo(&flood, b"ready?")?;
        let address = server.address();
        thread::scope(|scope| {
            // It ends with an error when no socket has the port any more, or after the timeout.
            let start = Instant::now();
            scope.spawn(
                move || {
                    while start.elapsed() < TIMEOUT && flood.send(&[0; 1000]).is_ok() {}
                },
            );
            end(server, signal)
        })?;
        UdpSocket::bind(address).context("the server's port is still in use")?;
        Ok(())
    })
}

fn end(server: &mut Server, signal: Signal) -> Result<()> {
    server.signal(signal)?;
    let (status, time) = server.wait(TIMEOUT)?;
    ensure!(status.code() == Some(0), "the server ended with {status}");
    ensure!(time < Duration::from_secs(2), "the server took {} to end", seconds(time));
    Ok(())
}

fn full_pipe(target: &Target) -> Result<()> {
    let (writer, _reader) = crate::server::full_pipe()?;
    target.launch().log_level("trace").stderr(writer).serve(|server| {
        for _ in 0..100 {
            echo(&peer(server.address())?, b"hello").context("while nobody reads the log")?;
        }
        end(server, Signal::TERM).context("while nobody reads the log")
    })
}
