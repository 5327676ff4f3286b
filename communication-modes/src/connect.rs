//! Connecting to a server by its name. The deadline covers connecting, but not the look-up of the
//! name.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};

/// A connection without traffic for this long is probed, so that a server that has vanished without
/// FIN or RST is noticed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer after which the kernel ends the connection with ETIMEDOUT.
const KEEPALIVE_PROBES: u32 = 6;

/// Returns all addresses of `addr`, `HOST:PORT` or `[HOST]:PORT`.
///
/// # Errors
/// `addr` cannot be parsed or resolved. The message names it.
pub fn resolve(addr: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addrs = addr.to_socket_addrs().with_context(|| format!("cannot resolve {addr:?}"))?;
    let addrs: Vec<_> = addrs.collect();
    ensure!(!addrs.is_empty(), "cannot resolve {addr:?}: the name has no address");
    Ok(addrs)
}

/// Connects to the first address of `addr`, `HOST:PORT`, that accepts the connection.
///
/// # Errors
/// `addr` cannot be parsed or resolved. Otherwise the error of the last address; its kind is
/// `TimedOut` if the deadline has passed.
pub fn connect(addr: &str, deadline: Instant) -> io::Result<TcpStream> {
    let addrs: Vec<_> = addr.to_socket_addrs()?.collect();
    connect_any(&addrs, deadline)
}

/// Connects to the first of `addrs` that accepts the connection.
///
/// The time is divided among the addresses, so that one that does not answer leaves time for the
/// others.
///
/// # Errors
/// The error of the last address. Its kind is `TimedOut` if the deadline has passed.
pub fn connect_any(addrs: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for (index, addr) in addrs.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addrs.len() - index) as u32;
        // `connect_timeout` does not accept a timeout of zero.
        match connect_one(addr, share.max(Duration::from_nanos(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn connect_one(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(addr, timeout)?;
    let socket = SockRef::from(&stream);
    if stream.local_addr()? == stream.peer_addr()? {
        // The socket is connected to itself. This can happen if no server listens on a port of this
        // machine that is in the ephemeral range (`ip_local_port_range`). The kernel picks a port
        // of that range for our socket. If it picks the port of `addr`, our SYN arrives at our own
        // socket, and TCP takes that for a simultaneous open (RFC 9293, 3.5). Closing with RST
        // avoids TIME_WAIT, in which the socket would keep the server from binding its port.
        socket.set_linger(Some(Duration::ZERO))?;
        return Err(Errno::ECONNREFUSED.into());
    }
    // A small write is sent at once, and does not wait for the ACK of the previous one.
    stream.set_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    Ok(stream)
}
