//! What the lines of the contract come to where there are no connections: each datagram is answered
//! once, whole, from the address that it was sent to.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{Server, TIMEOUT, Target};
use rustix::process::Signal;
use socket2::SockRef;

use crate::Case;
use crate::cases::start;

/// In the contract's order. What is not here is about connections: accept, half-close, limits; or
/// about a peer's own socket, backpressure and fairness.
pub const LINES: super::Lines = &[
    ("isolation", &[Case::new("peers_that_are_gone", peers_that_are_gone)]),
    (
        "integrity",
        &[
            Case::new("sizes", sizes),
            Case::new("bursts", bursts).exclusive(),
            Case::new("address_that_was_asked", address_that_was_asked),
            Case::new("dual_stack", dual_stack).unavailable(start::no_ipv6),
        ],
    ),
    ("interruption", &[Case::new("idle", interruption)]),
    (
        "shutdown",
        &[
            Case::new("sigint_flood", |target| ends(target, Signal::INT)).exclusive(),
            Case::new("sigterm_flood", |target| ends(target, Signal::TERM)).exclusive(),
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
fn peer(target: SocketAddr) -> Result<UdpSocket> {
    let ours = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(ours)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
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

fn sizes(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let peer = peer(server.address())?;
        for size in [0, 1, 2, 511, 512, 1471, 1472, 1473, 9000, 65_000, LARGEST - 1, LARGEST, 0] {
            echo(&peer, &vec![size as u8; size])?;
        }
        Ok(())
    })
}

/// Several clients send while the server is stopped: as many as its buffer is sure to hold.
fn bursts(target: &Target) -> Result<()> {
    const CLIENTS: usize = 8;
    const TOTAL: usize = 5000;
    let most: usize = fs::read_to_string("/proc/sys/net/core/rmem_max")?.trim().parse()?;
    // The server asks for more than this; and the kernel doubles what it grants.
    let burst = (2 * most.min(8 << 20) / ACCOUNTED).min(TOTAL) / CLIENTS;
    target.launch().serve(|server| {
        let peers: Vec<_> = (0..CLIENTS).map(|_| peer(server.address())).collect::<Result<_>>()?;
        peers.iter().try_for_each(|peer| echo(peer, b"ready?"))?;
        let mut next = 0_u32;
        while (next as usize) < TOTAL {
            let numbers = next..next + burst as u32;
            next = numbers.end;
            server.while_stopped(|| {
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
fn address_that_was_asked(target: &Target) -> Result<()> {
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

/// The answers to them come back as errors (ICMP), which the server's socket may be told.
fn peers_that_are_gone(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let healthy = peer(server.address())?;
        for _ in 0..100 {
            server.while_stopped(|| Ok(peer(server.address())?.send(b"and gone")?))?;
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
            let mut answer = [0; 16];
            let count = peer.recv(&mut answer).context("no answer after SIGSTOP and SIGCONT")?;
            ensure!(answer[..count] == *b"meanwhile", "another answer");
            server.while_stopped(|| Ok(()))?;
            echo(&peer, b"after")?;
        }
        Ok(())
    })
}

fn idle(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        echo(&peer(server.address())?, b"ready?")?;
        let mut woken = 0;
        // A wake-up that was due when the peer had its answer may come in the first.
        for _ in 0..3 {
            let before = server.usage()?.switches;
            thread::sleep(Duration::from_secs(1));
            woken = server.usage()?.switches.saturating_sub(before);
            if woken == 0 {
                return Ok(());
            }
        }
        bail!("with nobody sending it woke up {woken} times in a second")
    })
}

fn leaks(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let send_all =
            || (0..500).try_for_each(|n| echo(&peer(server.address())?, &vec![1; n * 100]));
        send_all()?;
        let before = server.usage()?;
        send_all()?;
        let after = server.usage()?;
        let grown = after.memory.saturating_sub(before.memory);
        ensure!(after.descriptors == before.descriptors, "descriptors: {before:?}, {after:?}");
        ensure!(after.threads == before.threads, "threads: {before:?}, {after:?}");
        ensure!(grown < 1 << 20, "500 peers left {grown} bytes behind");
        Ok(())
    })
}

/// In the middle of a flood.
fn ends(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let flood = peer(server.address())?;
        echo(&flood, b"ready?")?;
        let address = server.address();
        thread::scope(|scope| {
            // It ends with an error, when nobody listens any more; or after the deadline.
            let start = Instant::now();
            scope.spawn(
                move || {
                    while start.elapsed() < TIMEOUT && flood.send(&[0; 1000]).is_ok() {}
                },
            );
            end(server, signal)
        })?;
        UdpSocket::bind(address).context("its port is still taken")?;
        Ok(())
    })
}

fn end(server: &mut Server, signal: Signal) -> Result<()> {
    server.signal(signal)?;
    let (status, time) = server.wait(TIMEOUT)?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    ensure!(time < Duration::from_secs(2), "it took {time:?} to end");
    Ok(())
}

fn in_use(target: &Target) -> Result<()> {
    let taken = UdpSocket::bind("127.0.0.1:0")?;
    start::refuses_address(target, &taken.local_addr()?.to_string())
}
