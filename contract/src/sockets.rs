//! The TCP sockets of this machine, from `/proc/net/tcp` and `/proc/net/tcp6`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

/// A line of `/proc/net/tcp`.
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

/// All TCP sockets in the network namespace of this process.
pub fn all() -> Result<Vec<TcpSocket>> {
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

/// The sockets that listen on this address, or on this port of all addresses.
fn listeners(address: SocketAddr) -> Result<Vec<TcpSocket>> {
    let mut sockets = all()?;
    sockets.retain(|socket| {
        let ip = socket.local.ip();
        socket.state == LISTEN
            && socket.local.port() == address.port()
            && (ip == address.ip() || ip.is_unspecified())
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
    let is_it = |socket: &&TcpSocket| {
        socket.remote == client && socket.local.port() == server.port() && socket.state != LISTEN
    };
    Ok(all()?.iter().find(is_it).copied())
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
            drop(listener);
            assert!(!is_listening(address)?);
        }
        Ok(())
    }
}
