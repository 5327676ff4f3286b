//! Connections that are known to be served, and idle connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;

use super::pattern::Pattern;

/// Connections that are opened before the replies of the first ones are read. A backlog may be as
/// short as 128. A server that checks all its sockets at each wake-up does so once per batch.
const BATCH: usize = 100;

/// Bytes that each connection has sent and received when [`connect`] returns it.
pub const HELLO: usize = 8;

/// Opens connections, whose streams are numbered from `first` on. Each sends the first bytes of
/// its stream and receives them back.
///
/// So the server has accepted all of them, and none waits in the kernel's queue.
///
/// # Errors
/// Fails if the server refuses or closes a connection, or sends other bytes back.
pub fn connect(
    addr: SocketAddr,
    pattern: &Pattern,
    first: usize,
    count: usize,
    timeout: Duration,
) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let batch = streams.len()..count.min(streams.len() + BATCH);
        for number in batch.clone() {
            let stream = open(addr, timeout)
                .with_context(|| format!("connection {} of {count}", number + 1))?;
            (&stream).write_all(pattern.at(first + number, 0, HELLO))?;
            streams.push(stream);
        }
        for number in batch {
            let mut hello = [0; HELLO];
            (&streams[number])
                .read_exact(&mut hello)
                .with_context(|| format!("connection {} of {count} got no reply", number + 1))?;
            ensure!(
                hello == pattern.at(first + number, 0, HELLO),
                "connection {} of {count} received other bytes than it sent",
                number + 1
            );
        }
    }
    Ok(streams)
}

/// Opens a connection whose calls block for at most `timeout`.
///
/// # Errors
/// Fails if the server refuses the connection.
pub fn open(addr: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, timeout).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// Connections that send nothing, and must not receive anything.
#[derive(Debug)]
pub struct Idle(Vec<TcpStream>);

impl Idle {
    pub fn new(streams: Vec<TcpStream>) -> Result<Self> {
        for stream in &streams {
            stream.set_nonblocking(true)?;
            // Closing sends RST. Nothing is in flight, and thousands of sockets in TIME_WAIT are
            // avoided.
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(Self(streams))
    }

    /// Fails if a connection has received something or was closed.
    pub fn check(&self) -> Result<()> {
        for stream in &self.0 {
            match stream.peek(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) => bail!("the server closed an idle connection"),
                Ok(_) => bail!("an idle connection received something"),
                Err(error) => return Err(error).context("an idle connection"),
            }
        }
        Ok(())
    }
}
