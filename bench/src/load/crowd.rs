//! Connections, made so fast as a server accepts them, and each known to be served.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;

use super::pattern::Pattern;

/// Connections made before the first of them has to be answered: a backlog may be as short as
/// 128, and a server that asks all its sockets at each wake-up asks them once for so many.
const PORTION: usize = 100;

/// What each connection has sent and got back when it is handed over.
pub const HELLO: usize = 8;

/// Connects, from stream number `first` on, and has each send the first bytes of its stream.
///
/// So each is known to be accepted: none of them waits in the kernel's queue.
pub fn connect(
    addr: SocketAddr,
    pattern: &Pattern,
    first: usize,
    count: usize,
    patience: Duration,
) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let portion = streams.len()..count.min(streams.len() + PORTION);
        for number in portion.clone() {
            let stream = open(addr, patience)
                .with_context(|| format!("connection {} of {count}", number + 1))?;
            (&stream).write_all(pattern.at(first + number, 0, HELLO))?;
            streams.push(stream);
        }
        for number in portion {
            let mut hello = [0; HELLO];
            (&streams[number])
                .read_exact(&mut hello)
                .with_context(|| format!("connection {} of {count} got no answer", number + 1))?;
            ensure!(
                hello == pattern.at(first + number, 0, HELLO),
                "connection {} of {count} got back other bytes than it sent",
                number + 1
            );
        }
    }
    Ok(streams)
}

/// One connection, whose calls block, but no longer than `patience`.
pub fn open(addr: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, patience).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Connections that say nothing, and must not be told anything.
#[derive(Debug)]
pub struct Idle(Vec<TcpStream>);

impl Idle {
    pub fn new(streams: Vec<TcpStream>) -> Result<Self> {
        for stream in &streams {
            stream.set_nonblocking(true)?;
            // Closed with an RST, as nothing is owed: no thousands of sockets in TIME_WAIT.
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(Self(streams))
    }

    /// Fails where one of them has been sent something, or closed.
    pub fn check(&self) -> Result<()> {
        for stream in &self.0 {
            match stream.peek(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) => bail!("an idle connection was closed"),
                Ok(_) => bail!("an idle connection was sent something"),
                Err(error) => return Err(error).context("an idle connection"),
            }
        }
        Ok(())
    }
}
