//! The TCP sockets of this machine, from the kernel's socket monitor (`sock_diag(7)`), or else from
//! `/proc/net/tcp` and `/proc/net/tcp6`.
//!
//! The files list all sockets, also the thousands in `TIME_WAIT` that the cases leave behind. The
//! monitor lists those of one port, so that a case can ask often.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// A TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address.
    pub local: SocketAddr,
    /// The address of its peer.
    pub remote: SocketAddr,
    /// Its state: see [`LISTEN`] and [`ESTABLISHED`].
    pub state: u8,
    /// Bytes that wait to be read; for a listener, connections that wait for `accept`.
    pub receive_queue: usize,
    /// The timer that runs: see [`KEEPALIVE`].
    pub timer: u8,
    /// The number of its inode, as in `/proc/PID/fd`.
    pub inode: u64,
}

/// The state of a listener (`TCP_LISTEN`).
pub const LISTEN: u8 = 0x0a;
/// The state of a connection (`TCP_ESTABLISHED`).
pub const ESTABLISHED: u8 = 0x01;
/// The keepalive timer runs. (1 is retransmission, 4 is the zero window probe.)
pub const KEEPALIVE: u8 = 2;

/// The TCP sockets of this process's network namespace with this local port, or with any port if it
/// is 0, in these states.
fn with_port(port: u16, states: u32) -> Result<Vec<TcpSocket>> {
    let monitored: Result<Vec<_>> =
        [libc::AF_INET, libc::AF_INET6].into_iter().map(|it| monitor(it, port, states)).collect();
    // A container may forbid the monitor.
    let mut sockets = match monitored {
        Ok(sockets) => sockets.concat(),
        Err(_) => listed()?,
    };
    sockets.retain(|it| [0, it.local.port()].contains(&port) && states & (1 << it.state) != 0);
    Ok(sockets)
}

/// All TCP sockets, as the files list them.
fn listed() -> Result<Vec<TcpSocket>> {
    let mut sockets = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 there is no tcp6.
        let Ok(table) = fs::read_to_string(path) else { continue };
        for line in table.lines().skip(1) {
            sockets.push(parse(line).with_context(|| format!("cannot parse {path}: {line:?}"))?);
        }
    }
    Ok(sockets)
}

/// The same from the monitor, for one address family.
fn monitor(family: i32, port: u16, states: u32) -> Result<Vec<TcpSocket>> {
    let protocol = Some(Protocol::from(libc::NETLINK_SOCK_DIAG));
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, protocol)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    // struct nlmsghdr, and struct inet_diag_req_v2 (linux/inet_diag.h).
    let mut request = [0; HEADER + 56];
    request[..4].copy_from_slice(&(HEADER as u32 + 56).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[HEADER] = family as u8;
    request[HEADER + 1] = libc::IPPROTO_TCP as u8;
    request[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    request[HEADER + 8..HEADER + 10].copy_from_slice(&port.to_be_bytes());
    socket.send(&request)?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = socket.read(&mut buffer)?;
        let mut messages = &buffer[..count];
        while messages.len() >= HEADER {
            let length = u32::from_ne_bytes(messages[..4].try_into()?) as usize;
            let kind = u16::from_ne_bytes(messages[4..6].try_into()?);
            if i32::from(kind) == libc::NLMSG_DONE {
                return Ok(sockets);
            }
            ensure!(kind == SOCK_DIAG_BY_FAMILY, "the monitor sent a message of type {kind}");
            let message = messages.get(HEADER..length).context("a message is cut off")?;
            sockets.push(monitored(message).context("a message is too short")?);
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The type of a request, and of a response (`linux/sock_diag.h`).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The size of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Reads `struct inet_diag_msg`.
fn monitored(message: &[u8]) -> Option<TcpSocket> {
    let number = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let is_v4 = i32::from(*message.first()?) == libc::AF_INET;
    let ip = |at: usize| {
        let bytes: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
        Some(if is_v4 {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            IpAddr::from(bytes).to_canonical()
        })
    };
    Some(TcpSocket {
        local: SocketAddr::new(ip(8)?, port(4)?),
        remote: SocketAddr::new(ip(24)?, port(6)?),
        state: *message.get(1)?,
        receive_queue: number(56)? as usize,
        timer: *message.get(2)?,
        inode: number(68)?.into(),
    })
}

/// All sockets that listen.
pub fn listening() -> Result<Vec<TcpSocket>> {
    with_port(0, 1 << LISTEN)
}

/// The sockets that listen on this address, or on this port of all addresses.
fn listeners(address: SocketAddr) -> Result<Vec<TcpSocket>> {
    let mut sockets = with_port(address.port(), 1 << LISTEN)?;
    sockets.retain(|socket| {
        let ip = socket.local.ip();
        ip == address.ip() || ip.is_unspecified()
    });
    Ok(sockets)
}

/// Whether a socket listens on this address.
pub fn is_listening(address: SocketAddr) -> Result<bool> {
    Ok(!listeners(address)?.is_empty())
}

/// How many connections to this address wait for `accept`.
pub fn accept_queue(address: SocketAddr) -> Result<usize> {
    Ok(listeners(address)?.iter().map(|socket| socket.receive_queue).sum())
}

/// The server's socket of the connection whose client has the address `client`.
pub fn server_side(client: SocketAddr, server: SocketAddr) -> Result<Option<TcpSocket>> {
    let sockets = with_port(server.port(), !(1 << LISTEN))?;
    Ok(sockets.into_iter().find(|socket| socket.remote == client))
}

fn parse(line: &str) -> Option<TcpSocket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let queue = fields.next()?.split_once(':')?.1;
    let receive_queue = usize::from_str_radix(queue, 16).ok()?;
    let timer = fields.next()?.split_once(':')?.0;
    let timer = u8::from_str_radix(timer, 16).ok()?;
    let inode = fields.nth(3)?.parse().ok()?;
    Some(TcpSocket { local, remote, state, receive_queue, timer, inode })
}

/// The kernel prints each 32-bit word of an address in the byte order of the machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
    let ip = if ip.len() == 8 {
        IpAddr::from(Ipv4Addr::from(word(ip)?))
    } else {
        let mut bytes = [0; 16];
        for (index, part) in bytes.chunks_mut(4).enumerate() {
            part.copy_from_slice(&word(ip.get(index * 8..index * 8 + 8)?)?);
        }
        IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn finds_a_listener_and_the_server_side_of_a_connection() -> Result<()> {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else { continue };
            let address = listener.local_addr()?;
            assert!(is_listening(address)?);
            let client = TcpStream::connect(address)?;
            let socket = server_side(client.local_addr()?, address)?.context("not found")?;
            assert_eq!(accept_queue(address)?, 1);
            assert_eq!((socket.local, socket.state, socket.timer), (address, ESTABLISHED, 0));
            // The files say the same.
            assert!(listed()?.contains(&socket));
            drop(listener);
            assert!(!is_listening(address)?);
        }
        Ok(())
    }
}
