//! One peer with blocking calls, for conversations; many of them, for crowds.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use crate::wait::{TIMEOUT, timeout};
use crate::{Server, pattern::Pattern};

/// A connection to a server. Each of its calls ends within [`patience`].
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

/// How a connection was found to have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The bytes came back.
    Echo,
    /// The server closed the connection without an answer.
    Closed,
}

impl Client {
    /// Connects; the server need not have accepted yet.
    pub fn connect(server: &Server) -> Result<Self> {
        Self::connect_to(server.address())
    }

    /// Connects to one of the addresses of a server that listens on several.
    pub fn connect_to(address: SocketAddr) -> Result<Self> {
        Self::connect_socket(
            Socket::new(Domain::for_address(address), Type::STREAM, None)?,
            address,
        )
    }

    /// Connects through a narrow pipe: tiny segments, and hardly any room at the client's end.
    ///
    /// That keeps the server's send buffer at some kilobytes, as the kernel sizes it by what is
    /// under way. So much smaller than the buffer of a server, it takes that in several parts.
    pub fn connect_narrow(server: &Server) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(server.address()), Type::STREAM, None)?;
        socket.set_tcp_mss(88)?;
        socket.set_recv_buffer_size(1)?;
        Self::connect_socket(socket, server.address())
    }

    fn connect_socket(socket: Socket, address: SocketAddr) -> Result<Self> {
        let connected = socket.connect_timeout(&address.into(), TIMEOUT);
        connected.context("cannot connect to the server")?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout()))?;
        stream.set_write_timeout(Some(timeout()))?;
        Ok(Self { stream })
    }

    /// The client's end.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends all of `bytes`.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        (&self.stream).write_all(bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => {
                anyhow!("the server took nothing for {} s", timeout().as_secs())
            }
            _ => anyhow!(error).context("cannot send to the server"),
        })
    }

    /// Receives exactly `bytes`.
    pub fn expect(&self, bytes: &[u8]) -> Result<()> {
        let mut echo = vec![0; bytes.len()];
        let mut received = 0;
        while received < echo.len() {
            match (&self.stream).read(&mut echo[received..]) {
                Ok(0) => {
                    bail!("the connection ended: {received} of {} bytes came back", bytes.len())
                }
                Ok(count) => received += count,
                Err(error) => {
                    let bytes = format!("{received} of {} bytes came back", bytes.len());
                    return Err(silence(error).context(bytes));
                }
            }
        }
        ensure!(echo == bytes, "{} bytes came back, but not those that were sent", bytes.len());
        Ok(())
    }

    /// Sends `bytes` and receives them back.
    pub fn echo(&self, bytes: &[u8]) -> Result<()> {
        self.send(bytes)?;
        self.expect(bytes)
    }

    /// Receives a line, without its end; `None` where the connection has ended instead.
    ///
    /// Takes nothing of what comes after it: all other calls go on there.
    pub fn line(&self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut chunk = [0; 4096];
        while line.last() != Some(&b'\n') {
            let there = match self.stream.peek(&mut chunk) {
                Err(error) if line.is_empty() && reset(&error) => 0,
                result => result.map_err(silence)?,
            };
            if there == 0 && line.is_empty() {
                return Ok(None);
            }
            ensure!(there > 0, "the connection ended {} bytes into a line", line.len());
            let end = chunk[..there].iter().position(|&byte| byte == b'\n');
            let part = &mut chunk[..end.map_or(there, |end| end + 1)];
            (&self.stream).read_exact(part)?;
            line.extend_from_slice(part);
        }
        line.pop();
        Ok(Some(String::from_utf8(line).context("a line came that is not UTF-8")?))
    }

    /// Waits for `bytes` back, or for the end.
    pub fn expect_or_end(&self, bytes: &[u8]) -> Result<Reply> {
        match self.stream.peek(&mut [0]) {
            Ok(0) => Ok(Reply::Closed),
            Err(error) if reset(&error) => Ok(Reply::Closed),
            Err(error) => Err(silence(error)),
            Ok(_) => self.expect(bytes).map(|()| Reply::Echo),
        }
    }

    /// Waits for the end of what the server sends; nothing may come before it.
    pub fn expect_end(&self) -> Result<()> {
        match (&self.stream).read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("more came back than was sent"),
            Err(error) => Err(silence(error).context("the connection did not end")),
        }
    }

    /// Sends no more, and still receives.
    pub fn half_close(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("cannot half-close")
    }

    /// Leaves, and waits until the server has closed its end too: its descriptor is free then.
    pub fn finish(self) -> Result<()> {
        self.half_close()?;
        self.expect_end()
    }

    /// Whether something has come back, without waiting for it.
    pub fn has_response(&self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let answer = match self.stream.peek(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Ok(0) => Err(anyhow!("the server closed the connection")),
            result => Ok(result.map(|_| true)?),
        };
        self.stream.set_nonblocking(false)?;
        answer
    }

    /// Sends a byte out of band.
    pub fn send_urgent(&self, byte: u8) -> Result<()> {
        SockRef::from(&self.stream).send_out_of_band(&[byte])?;
        Ok(())
    }

    /// Ends the connection with an RST: what is on its way in either direction is lost.
    pub fn reset(self) -> Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    /// Gives the socket away.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

fn reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn silence(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock => anyhow!("nothing came for {} s", timeout().as_secs()),
        _ => anyhow!(error).context("cannot receive from the server"),
    }
}

/// A message of `count` bytes, another for each `seed`.
#[must_use]
pub fn message(seed: u64, count: usize) -> Vec<u8> {
    Pattern::new(seed).first(count)
}

/// Connects `count` clients, each of which is served: it gets one byte back.
pub fn connect_many(server: &Server, count: usize) -> Result<Vec<Client>> {
    // In portions, as a backlog may be as short as 128; and together, as a server that asks
    // all its sockets at each wake-up takes long for a thousand wake-ups, but not for one.
    const PORTION: usize = 100;
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let portion = PORTION.min(count - clients.len());
        let new: Vec<_> = (0..portion).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        for client in &new {
            client.send(b"x")?;
        }
        for (number, client) in (clients.len() + 1..).zip(&new) {
            client.expect(b"x").with_context(|| format!("client {number} of {count}"))?;
        }
        clients.extend(new);
    }
    Ok(clients)
}
