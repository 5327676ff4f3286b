//! The listening socket, and what accept(2) returns.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use log::{info, warn};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

/// The most established connections that the kernel queues until the server accepts them. The kernel
/// uses the lower of this and `net.core.somaxconn`.
///
/// With std's 128, a burst of connections overflows the queue. The kernel then drops SYNs, and these
/// clients wait a second or more until they send them again.
const BACKLOG: i32 = 4096;

/// Time without traffic until the kernel probes the peer, time between two probes, and the number of
/// probes without a reply after which it ends the connection (tcp(7)).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;

/// Failed connections that one call of [`accept`] skips.
const MAX_FAILED_CONNECTIONS: usize = 64;

/// Opens a TCP socket that listens on `addr`, `HOST:PORT` or `[HOST]:PORT`.
///
/// The socket is blocking and close-on-exec. If it is bound to `[::]`, it also accepts IPv4.
///
/// # Errors
/// The address cannot be parsed, resolved or bound. The message names the address and the call.
pub fn listen(addr: &str) -> anyhow::Result<TcpListener> {
    // Pitfall: unwrap-at-start
    let socket = bind(addr, Type::STREAM).with_context(|| format!("cannot listen on {addr:?}"))?;
    Ok(socket.into())
}

/// Opens `count` TCP sockets that listen on the same address, each with a queue of its own. The kernel
/// puts a connection into one of these queues, by a hash of its addresses and ports (`SO_REUSEPORT`,
/// socket(7)).
///
/// # Errors
/// As [`listen`].
pub fn listen_shared(addr: &str, count: usize) -> anyhow::Result<Vec<TcpListener>> {
    // Bound without the option, so that this fails if another process listens there already. Linux
    // takes the option after listen(2), too.
    let first = listen(addr)?;
    SockRef::from(&first).set_reuse_port(true).context("setsockopt(SO_REUSEPORT)")?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < count {
        let socket = open(address, Type::STREAM)?;
        socket.set_reuse_port(true).context("setsockopt(SO_REUSEPORT)")?;
        listeners.push(bind_to(socket, address, Type::STREAM)?.into());
    }
    Ok(listeners)
}

/// Opens a UDP socket that is bound to `addr`, `HOST:PORT` or `[HOST]:PORT`.
///
/// # Errors
/// The address cannot be parsed, resolved or bound. The message names the address and the call.
pub fn bind_udp(addr: &str) -> anyhow::Result<UdpSocket> {
    let socket = bind(addr, Type::DGRAM).with_context(|| format!("cannot listen on {addr:?}"))?;
    Ok(socket.into())
}

/// Prints on stdout, in one line, that the server listens on `address`.
///
/// Call it when everything that can fail at start has succeeded: scripts take this line as the
/// promise that the server serves. Pitfall: announced-too-early
pub fn announce(address: SocketAddr) {
    // A closed stdout is no reason not to serve.
    let _ = writeln!(io::stdout(), "{} listening on {address}", program_name());
}

/// Returns the name that the program was started as, without its folder: `epoll-echo`.
pub(crate) fn program_name() -> String {
    let path = env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().unwrap_or(OsStr::new("server"));
    name.to_string_lossy().into_owned()
}

/// Resolves `addr`, and opens a socket on the first of its addresses that can be bound.
fn bind(addr: &str, kind: Type) -> anyhow::Result<Socket> {
    let (host, port) = split(addr).context("expected HOST:PORT or [HOST]:PORT")?;
    let mut failure = anyhow::anyhow!("the name has no address");
    for address in resolve(host, port).context("name look-up")? {
        match open(address, kind).and_then(|socket| bind_to(socket, address, kind)) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Splits `HOST:PORT` or `[HOST]:PORT`. getaddrinfo(3) does not accept the brackets.
fn split(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    let without_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    Some((without_brackets.unwrap_or(host), port.parse().ok()?))
}

/// Returns the addresses of `host`, which may be an IPv6 address with an interface (`::1%lo`).
/// getaddrinfo(3) accepts `%lo` after a link-local address only.
fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some((address, interface)) = host.split_once('%') {
        if let (Ok(address), Ok(index)) = (address.parse(), if_nametoindex(interface)) {
            return Ok(vec![SocketAddrV6::new(address, port, 0, index).into()]);
        }
    }
    Ok((host, port).to_socket_addrs()?.collect())
}

fn open(address: SocketAddr, kind: Type) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None).context("socket")?;
    if address.is_ipv6() {
        socket.set_only_v6(false).context("setsockopt(IPV6_V6ONLY)")?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier process in TIME_WAIT must not keep this one from binding.
        // (For UDP this option would let a second server bind the same port and take datagrams.)
        socket.set_reuse_address(true).context("setsockopt(SO_REUSEADDR)")?;
    }
    Ok(socket)
}

fn bind_to(socket: Socket, address: SocketAddr, kind: Type) -> anyhow::Result<Socket> {
    socket.bind(&address.into()).context("bind")?;
    if kind == Type::STREAM {
        set_inherited_options(&socket).context("setsockopt")?;
        socket.listen(BACKLOG).context("listen")?;
    }
    Ok(socket)
}

/// Sets the options that each accepted connection inherits from the listener (Linux).
fn set_inherited_options(socket: &Socket) -> io::Result<()> {
    // Without it, the second of two small writes waits for the peer's delayed ACK.
    // Pitfall: two-small-writes
    socket.set_tcp_nodelay(true)?;
    // A peer that vanishes sends neither FIN nor RST. Without keepalive, a server that waits for it
    // would keep the connection for ever. (While output is unacknowledged, the retransmission timeout
    // ends the connection instead: tcp(7), tcp_retries2.) Pitfall: no-keepalive
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// The results of accept(2) that a server must treat differently.
#[derive(Debug)]
pub enum Accepted {
    /// A connection and the address of its peer. The socket is blocking, close-on-exec, and has
    /// `TCP_NODELAY` and keepalive set.
    Connection(TcpStream, SocketAddr),
    /// No connection is waiting. Only a non-blocking listener returns this.
    WouldBlock,
    /// `accept` failed, and the next call would fail for the same reason, such as a lack of file
    /// descriptors. Stop accepting until a connection closes or some time has passed.
    ///
    /// The failed call took nothing from the queue. So the listener stays readable, and a blocking
    /// `accept` fails again at once: an immediate retry is a busy loop.
    /// Pitfalls: accept-spins, accept-error-retried
    Pause,
}

/// Accepts one connection.
///
/// If a connection failed while it was in the queue, `accept` logs that and takes the next one.
#[must_use]
pub fn accept(listener: &TcpListener) -> Accepted {
    for _ in 0..MAX_FAILED_CONNECTIONS {
        if let Some(accepted) = Accepted::from_result(listener.accept()) {
            return accepted;
        }
    }
    Accepted::Pause // so that a queue full of failed connections does not delay the others
}

impl Accepted {
    /// Classifies the result of an accept, for servers that accept by `io_uring`.
    ///
    /// Returns `None` if only this one connection failed: take the next one. No error of accept may
    /// end the server. Pitfall: accept-error-ends
    pub fn from_result(result: io::Result<(TcpStream, SocketAddr)>) -> Option<Self> {
        // True while accept keeps failing: only the first failure is logged.
        static PAUSED: AtomicBool = AtomicBool::new(false);
        let error = match result {
            Ok((stream, peer)) => {
                PAUSED.store(false, Ordering::Relaxed);
                info!("{peer} connected");
                return Some(Self::Connection(stream, peer));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Self::WouldBlock),
            Err(error) => error,
        };
        if error.raw_os_error().is_some_and(|error| OF_ONE_CONNECTION.contains(&error)) {
            info!("a connection failed before it was accepted: {error}");
            return None;
        }
        // Out of file descriptors (EMFILE, ENFILE) or memory (ENOBUFS, ENOMEM), or refused by a
        // security module or a seccomp filter (EPERM, EACCES, ENOSYS). accept(2) also gives EPERM for
        // a firewall's refusal of one connection. Pausing is right for both.
        if !PAUSED.swap(true, Ordering::Relaxed) {
            warn!("paused accepting: {error}");
        }
        Some(Self::Pause)
    }
}

/// Errors of one connection, which the failed call has removed from the queue (accept(2), "Error
/// handling"). The last two occur with io-uring only: getpeername(2) after a reset, and a signal.
#[rustfmt::skip]
const OF_ONE_CONNECTION: [i32; 12] = [
    libc::ECONNABORTED, libc::EPROTO, libc::ENOPROTOOPT, libc::ENETDOWN, libc::ENETUNREACH, libc::ENONET,
    libc::EHOSTDOWN, libc::EHOSTUNREACH, libc::EOPNOTSUPP, libc::ETIMEDOUT, libc::ENOTCONN, libc::EINTR,
];
