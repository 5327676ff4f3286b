//! Opening sockets, announcing the address, and the results of accept(2).

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use log::{info, warn};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

/// The maximum number of connections that the kernel queues until the server accepts them (see also
/// `net.core.somaxconn`). A burst overflows std's 128: the kernel then drops SYNs, and these
/// clients wait a second or more until they send them again.
const BACKLOG: i32 = 4096;

/// The most failed connections that one call of [`accept`] skips.
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
    // The first one is bound without the option, so this fails if another process listens there
    // already. Linux lets a listening socket set the option later.
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

/// Prints on stdout that the server listens on `address`. Call it when everything that can fail at
/// start has succeeded: scripts take this line as a promise. Pitfall: announced-too-early
pub fn announce(address: SocketAddr) {
    // An error is ignored: a closed stdout is no reason not to serve.
    let _ = writeln!(io::stdout(), "{} listening on {address}", program_name());
}

/// The name that the program was started as, without its folder: `epoll-echo`.
pub(crate) fn program_name() -> String {
    let path = env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().unwrap_or(OsStr::new("server"));
    name.to_string_lossy().into_owned()
}

/// Resolves `addr`, and opens a socket on the first of its addresses that can be bound.
fn bind(addr: &str, kind: Type) -> anyhow::Result<Socket> {
    let mut failure = anyhow!("the name has no address");
    for address in resolve(addr)? {
        match open(address, kind).and_then(|socket| bind_to(socket, address, kind)) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn resolve(addr: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let (host, port) = addr.rsplit_once(':').context("expected HOST:PORT or [HOST]:PORT")?;
    let port = port.parse().context("the port")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // getaddrinfo(3) accepts `%lo` after a link-local address only.
    let (ip, interface) = host.split_once('%').unwrap_or((host, ""));
    if let (Ok(ip), Ok(index)) = (ip.parse(), if_nametoindex(interface)) {
        return Ok(vec![SocketAddrV6::new(ip, port, 0, index).into()]);
    }
    Ok((host, port).to_socket_addrs().context("name look-up")?.collect())
}

fn open(address: SocketAddr, kind: Type) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None).context("socket")?;
    if address.is_ipv6() {
        socket.set_only_v6(false).context("setsockopt(IPV6_V6ONLY)")?;
    }
    if kind == Type::STREAM {
        // An earlier process may have left connections in TIME_WAIT. They must not prevent this
        // bind. (For UDP this option would let a second server bind the same port and take
        // datagrams.)
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
    // Without TCP_NODELAY, the second of two small writes waits for the peer's delayed ACK.
    // Pitfall: two-small-writes
    socket.set_tcp_nodelay(true)?;
    // A peer that vanishes sends neither FIN nor RST, so a server would wait for it for ever. (While
    // output is unacknowledged, the retransmission timeout ends the connection: tcp(7), tcp_retries2.)
    // Pitfall: no-keepalive
    // After 60 s without traffic the kernel probes the peer, six times, every 10 s (tcp(7)).
    let idle = Duration::from_secs(60);
    let interval = Duration::from_secs(10);
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(6);
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
    /// `accept` failed and would fail again, for example for lack of file descriptors; or too many
    /// queued connections had failed. Serve other events, or wait for some time, before the next
    /// call.
    ///
    /// A call that fails for lack of descriptors takes nothing from the queue. So the listener
    /// stays readable, and to accept again at once would be a busy loop.
    /// Pitfalls: accept-spins, accept-error-retried
    Pause,
}

/// Accepts one connection. If it failed while it was in the queue, logs that and takes the next one.
#[must_use]
pub fn accept(listener: &TcpListener) -> Accepted {
    for _ in 0..MAX_FAILED_CONNECTIONS {
        if let Some(accepted) = Accepted::from_result(listener.accept()) {
            return accepted;
        }
    }
    Accepted::Pause // failed connections must not keep the server from its other clients
}

impl Accepted {
    /// Classifies the result of accept(2): for [`accept`], and for the servers with `io_uring`.
    ///
    /// Returns `None` if only this one connection failed: take the next one. No error of accept may
    /// end the server. Pitfall: accept-error-ends
    pub fn from_result(result: io::Result<(TcpStream, SocketAddr)>) -> Option<Self> {
        // True from a failure to the next accepted connection: only the first failure is logged.
        static PAUSED: AtomicBool = AtomicBool::new(false);
        let error = match result {
            Ok((stream, peer)) => {
                PAUSED.store(false, Ordering::Relaxed);
                info!("{peer} connected");
                return Some(Self::Connection(stream, peer));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Self::WouldBlock),
            Err(error) if error.kind() == ErrorKind::Interrupted => return None, // io_uring only
            Err(error) => error,
        };
        if error.raw_os_error().is_some_and(|error| OF_ONE_CONNECTION.contains(&error)) {
            info!("a connection failed before it was accepted: {error}");
            return None;
        }
        // Out of file descriptors (EMFILE, ENFILE) or memory (ENOBUFS, ENOMEM), or refused by a
        // security module or a seccomp filter (EPERM, EACCES, ENOSYS). The EPERM of a firewall
        // (accept(2)) belongs to one connection, but a pause is right for it, too.
        if !PAUSED.swap(true, Ordering::Relaxed) {
            warn!("paused accepting: {error}");
        }
        Some(Self::Pause)
    }
}

/// Errors of one connection, which the failed call has removed from the queue (accept(2), "Error
/// handling"). ENOTCONN is from getpeername(2), which the servers with io-uring call after the
/// accept.
#[rustfmt::skip]
const OF_ONE_CONNECTION: [i32; 11] = [
    libc::ECONNABORTED, libc::EPROTO, libc::ENOPROTOOPT, libc::ENETDOWN, libc::ENETUNREACH, libc::ENONET,
    libc::EHOSTDOWN, libc::EHOSTUNREACH, libc::EOPNOTSUPP, libc::ETIMEDOUT, libc::ENOTCONN,
];
