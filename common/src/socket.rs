//! The listening socket, and what `accept(2)` can answer.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use log::{debug, info, warn};
use socket2::{Domain, Socket, Type};

/// How many connections the kernel keeps for us until we accept them; it takes the lower of
/// this and `net.core.somaxconn`. With std's 128, the 129th of a crowd waits a second for its
/// SYN to be sent again.
const BACKLOG: i32 = 4096;

/// Listens on `addr`, `HOST:PORT`, and says so in one line on stdout.
///
/// The socket blocks, is closed on exec, and takes IPv4 too where it is bound to `[::]`.
///
/// # Errors
/// An address that cannot be parsed, resolved or bound; the message names it.
pub fn listen(addr: &str) -> anyhow::Result<TcpListener> {
    let listener: TcpListener = bind(addr, Type::STREAM)?.into();
    announce(listener.local_addr()?);
    Ok(listener)
}

/// As [`listen`] does for connections, for datagrams; but the server has options to set, and says
/// that it listens by [`announce`] when it has.
///
/// # Errors
/// An address that cannot be parsed, resolved or bound; the message names it.
pub fn bind_udp(addr: &str) -> anyhow::Result<UdpSocket> {
    Ok(bind(addr, Type::DGRAM)?.into())
}

/// Says in one line on stdout that the server listens on `bound`.
pub fn announce(bound: SocketAddr) {
    // That nobody reads our stdout is no reason not to serve.
    let _ = writeln!(io::stdout(), "{} listening on {bound}", program_name());
}

/// What the program was started as: `epoll-echo`.
pub(crate) fn program_name() -> String {
    let path = env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().unwrap_or(OsStr::new("server"));
    name.to_string_lossy().into_owned()
}

/// Binds the first of the addresses behind `addr` that can be bound.
fn bind(addr: &str, kind: Type) -> anyhow::Result<Socket> {
    let first = || {
        let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in addr.to_socket_addrs()? {
            match bind_one(address, kind) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    };
    first().with_context(|| format!("cannot listen on {addr:?}"))
}

fn bind_one(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier run that linger in TIME_WAIT do not keep us from binding.
        // (For datagrams it would let a second server bind the same port, and take them.)
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// What `accept(2)` answered.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, blocking, closed on exec, without Nagle's algorithm; and its peer.
    Connection(TcpStream, SocketAddr),
    /// Nobody waits to be accepted: only a non-blocking listener says so.
    NobodyWaits,
    /// The process or the system is out of descriptors or memory.
    ///
    /// The kernel finds that out *before* it looks at its queue: the listener stays readable,
    /// and even a blocking `accept` returns at once. So stop asking, until a connection closes
    /// or some time has gone by.
    OutOfDescriptors,
}

/// Accepts one connection.
///
/// Where that one connection failed, it is logged and the next one is taken: `accept(2)` hands
/// on what the network made of a connection that waited ("Error handling" in its man page).
///
/// # Errors
/// What is wrong with the listening socket itself.
pub fn accept(listener: &TcpListener) -> io::Result<Accepted> {
    loop {
        if let Some(accepted) = accepted(listener.accept())? {
            return Ok(accepted);
        }
    }
}

/// What an answer of `accept(2)` means, for those who have it by another way than [`accept`].
///
/// `None` where that one connection failed, which is logged: take the next one.
///
/// # Errors
/// What is wrong with the listening socket itself.
pub fn accepted(answer: io::Result<(TcpStream, SocketAddr)>) -> io::Result<Option<Accepted>> {
    // One line in the log when a shortage begins, however often we are told of it.
    static SHORTAGE: AtomicBool = AtomicBool::new(false);
    let error = match answer {
        Ok((stream, peer)) => {
            SHORTAGE.store(false, Ordering::Relaxed);
            info!("{peer} came");
            // This fails for a connection that is reset already: its first read will say so.
            let _ = stream.set_nodelay(true); // Pitfall: two-small-writes
            return Ok(Some(Accepted::Connection(stream, peer)));
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Ok(Some(Accepted::NobodyWaits));
        }
        Err(error) => error,
    };
    // Pitfall: accept-error-ends
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            if !SHORTAGE.swap(true, Ordering::Relaxed) {
                warn!("new connections have to wait: {error}");
            }
            Ok(Some(Accepted::OutOfDescriptors))
        }
        Some(libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK) => Err(error),
        _ => {
            debug!("a connection failed before it was accepted: {error}");
            Ok(None)
        }
    }
}
