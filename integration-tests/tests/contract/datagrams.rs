//! What the lines of the contract come to where there are no connections: each datagram is answered
//! once, whole, from the address that it was sent to.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::{PATIENCE, Running, Server};
use rustix::process::Signal;
use socket2::SockRef;

use crate::case::Case;
use crate::start;

/// In the contract's order. What is not here is about connections: accept, half-close, limits; or
/// about a peer's own socket, backpressure and fairness.
pub const CONTRACT: &[(&str, &[Case])] = &[
    ("isolation", &[Case::new("peers_that_are_gone", peers_that_are_gone)]),
    (
        "whole",
        &[
            Case::new("sizes", sizes),
            Case::new("bursts", bursts).alone(),
            Case::new("address_that_was_asked", address_that_was_asked),
            Case::new("dual_stack", dual_stack).lacks(start::no_ipv6),
        ],
    ),
    ("interruption", &[Case::new("idle", interruption)]),
    (
        "shutdown",
        &[
            Case::new("sigint_flood", |server| ends(server, Signal::INT)).alone(),
            Case::new("sigterm_flood", |server| ends(server, Signal::TERM)).alone(),
        ],
    ),
    ("leaks", &[Case::new("rounds_of_500", leaks)]),
    (
        "start",
        &[
            Case::new("in_use", in_use),
            Case::new("unparsable", start::unparsable),
            Case::new("unresolvable", start::unresolvable),
            Case::new("not_ours", start::not_ours),
            Case::new("not_utf8", start::not_utf8),
            Case::new("surplus_argument", start::surplus_argument),
            Case::new("unknown_option", start::unknown_option),
            Case::new("help", start::help),
        ],
    ),
    ("idle", &[Case::new("no_processor_time", idle)]),
];

/// The largest over IPv4: 65535 less the headers.
const LARGEST: usize = 65_507;
/// What the kernel counts for a small datagram in a socket's buffer, at most.
const ACCOUNTED: usize = 1024;

/// A peer that hears of `server` alone: the kernel drops what comes from any other address.
fn peer(server: SocketAddr) -> Result<UdpSocket> {
    let ours = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(ours)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // So that an answer which does not come was not lost at this end.
    SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
    Ok(socket)
}

fn echo(peer: &UdpSocket, message: &[u8]) -> Result<()> {
    peer.send(message)?;
    let mut answer = vec![0; LARGEST + 1];
    let what = || format!("no answer to {} bytes", message.len());
    let count = peer.recv(&mut answer).with_context(what)?;
    ensure!(answer[..count] == *message, "to {} bytes came {count} others", message.len());
    Ok(())
}

fn sizes(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let peer = peer(running.address())?;
        for size in [0, 1, 2, 511, 512, 1471, 1472, 1473, 9000, 65_000, LARGEST - 1, LARGEST, 0] {
            echo(&peer, &vec![size as u8; size])?;
        }
        Ok(())
    })
}

/// Several clients send while the server is stopped: as many as its buffer is sure to hold.
fn bursts(server: &Server) -> Result<()> {
    const CLIENTS: usize = 8;
    const TOTAL: usize = 5000;
    let most: usize = fs::read_to_string("/proc/sys/net/core/rmem_max")?.trim().parse()?;
    // The server asks for more than this; and the kernel doubles what it grants.
    let burst = (2 * most.min(8 << 20) / ACCOUNTED).min(TOTAL) / CLIENTS;
    server.launch().serve(|running| {
        let peers: Vec<_> = (0..CLIENTS).map(|_| peer(running.address())).collect::<Result<_>>()?;
        peers.iter().try_for_each(|peer| echo(peer, b"ready?"))?;
        let mut next = 0_u32;
        while (next as usize) < TOTAL {
            let numbers = next..next + burst as u32;
            next = numbers.end;
            running.paused(|| {
                let send = |peer: &UdpSocket| {
                    numbers.clone().try_for_each(|n| {
                        peer.send(&n.to_be_bytes()).map(drop).context("cannot send")
                    })
                };
                peers.iter().try_for_each(send)
            })?;
            for peer in &peers {
                let mut owed: HashSet<_> = numbers.clone().map(u32::to_be_bytes).collect();
                while !owed.is_empty() {
                    let mut answer = [0; 4];
                    let missing = || format!("{} of {burst} answers are missing", owed.len());
                    peer.recv(&mut answer).with_context(missing)?;
                    ensure!(owed.remove(&answer), "{answer:?} came, which nobody waits for");
                }
            }
        }
        Ok(())
    })
}

/// A machine has several addresses, and a peer takes an answer from the one it asked only.
fn address_that_was_asked(server: &Server) -> Result<()> {
    server.launch_with(["0.0.0.0:0"]).serve(|running| {
        let port = running.address().port();
        (1..=3).try_for_each(|last| {
            let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
            echo(&peer(asked)?, b"hello").with_context(|| asked.to_string())
        })
    })
}

fn dual_stack(server: &Server) -> Result<()> {
    server.launch_with(["[::]:0"]).serve(|running| {
        let port = running.address().port();
        for asked in [Ipv4Addr::new(127, 0, 0, 2).into(), Ipv6Addr::LOCALHOST.into()] {
            let asked = SocketAddr::new(asked, port);
            echo(&peer(asked)?, b"hello").with_context(|| asked.to_string())?;
        }
        Ok(())
    })
}

/// The answers to them come back as errors (ICMP), which the server's socket may be told.
fn peers_that_are_gone(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let healthy = peer(running.address())?;
        for _ in 0..100 {
            running.paused(|| Ok(peer(running.address())?.send(b"and gone")?))?;
            echo(&healthy, b"here")?;
        }
        Ok(())
    })
}

fn interruption(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let peer = peer(running.address())?;
        for _ in 0..20 {
            running.paused(|| Ok(peer.send(b"meanwhile")?))?;
            let mut answer = [0; 16];
            let count = peer.recv(&mut answer).context("no answer after SIGSTOP and SIGCONT")?;
            ensure!(answer[..count] == *b"meanwhile", "another answer");
            running.paused(|| Ok(()))?;
            echo(&peer, b"after")?;
        }
        Ok(())
    })
}

fn idle(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        echo(&peer(running.address())?, b"ready?")?;
        let mut woken = 0;
        // A wake-up that was due when the peer had its answer may come in the first.
        for _ in 0..3 {
            let before = running.figures()?.switches;
            thread::sleep(Duration::from_secs(1));
            woken = running.figures()?.switches.saturating_sub(before);
            if woken == 0 {
                return Ok(());
            }
        }
        bail!("with nobody sending it woke up {woken} times in a second")
    })
}

fn leaks(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let crowd =
            || (0..500).try_for_each(|n| echo(&peer(running.address())?, &vec![1; n * 100]));
        crowd()?;
        let before = running.figures()?;
        crowd()?;
        let after = running.figures()?;
        let grown = after.memory.saturating_sub(before.memory);
        ensure!(after.descriptors == before.descriptors, "descriptors: {before:?}, {after:?}");
        ensure!(after.threads == before.threads, "threads: {before:?}, {after:?}");
        ensure!(grown < 1 << 20, "500 peers left {grown} bytes behind");
        Ok(())
    })
}

/// In the middle of a flood.
fn ends(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| {
        let flood = peer(running.address())?;
        echo(&flood, b"ready?")?;
        let address = running.address();
        thread::scope(|scope| {
            // It ends with an error, when nobody listens any more; or after the deadline.
            let start = Instant::now();
            scope.spawn(
                move || {
                    while start.elapsed() < PATIENCE && flood.send(&[0; 1000]).is_ok() {}
                },
            );
            end(running, signal)
        })?;
        UdpSocket::bind(address).context("its port is still taken")?;
        Ok(())
    })
}

fn end(running: &mut Running, signal: Signal) -> Result<()> {
    running.signal(signal)?;
    let (status, time) = running.wait(PATIENCE)?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    ensure!(time < Duration::from_secs(2), "it took {time:?} to end");
    Ok(())
}

fn in_use(server: &Server) -> Result<()> {
    let taken = UdpSocket::bind("127.0.0.1:0")?;
    start::refuses_address(server, &taken.local_addr()?.to_string())
}
