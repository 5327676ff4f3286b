//! One client with blocking calls.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::conversation::{self, event};
use crate::pattern::Pattern;
use crate::probe::{Probe, Responses, quote};
use crate::wait::{seconds, timeout, wait_until};
use crate::{Server, sockets};

/// The size of an echo request, if the case does not depend on it.
const REQUEST: usize = 100;

/// A connection to a server. Every call returns within [`timeout`].
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    probe: Probe,
    responses: RefCell<Responses>,
    /// Whether a request was sent on this connection.
    used: Cell<bool>,
}

/// What a client received after it sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The response.
    Response,
    /// The end of the connection, or an error message and then the end.
    Closed,
}

impl Client {
    /// Connects. The server need not have accepted the connection when this returns.
    pub fn connect(server: &Server) -> Result<Self> {
        Self::connect_with(server.address(), server.probe())
    }

    /// Connects to an echo server at this address.
    pub fn connect_to(address: SocketAddr) -> Result<Self> {
        Self::connect_with(address, &Probe::echo())
    }

    /// Connects to this address, to speak this protocol.
    pub fn connect_with(address: SocketAddr, probe: &Probe) -> Result<Self> {
        Self::connect_socket(
            Socket::new(Domain::for_address(address), Type::STREAM, None)?,
            address,
            probe,
        )
    }

    /// Connects with tiny segments and a tiny receive buffer.
    ///
    /// The kernel then keeps the server's send buffer at a few kilobytes, because it sizes that
    /// buffer by the bytes in flight. So the server's socket takes a large write in several parts.
    pub fn connect_narrow(server: &Server) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(server.address()), Type::STREAM, None)?;
        socket.set_tcp_mss(88)?;
        socket.set_recv_buffer_size(1)?;
        Self::connect_socket(socket, server.address(), server.probe())
    }

    /// Connects, if the server's backlog is not full.
    pub fn try_connect(server: &Server) -> Result<Option<Self>> {
        const TIME: Duration = Duration::from_millis(300);
        let address = server.address();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.connect_timeout(&address.into(), TIME) {
            // The kernel drops a SYN for which there is no space, and the client repeats it after
            // a second.
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
            result => {
                result.context("cannot connect to the server")?;
                Self::on_connected(socket, address, server.probe()).map(Some)
            }
        }
    }

    fn connect_socket(socket: Socket, peer: SocketAddr, probe: &Probe) -> Result<Self> {
        let connected = socket.connect_timeout(&peer.into(), timeout());
        connected.context("cannot connect to the server")?;
        Self::on_connected(socket, peer, probe)
    }

    fn on_connected(socket: Socket, peer: SocketAddr, probe: &Probe) -> Result<Self> {
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout()))?;
        stream.set_write_timeout(Some(timeout()))?;
        let client = Self {
            stream,
            peer,
            probe: probe.clone(),
            responses: RefCell::new(Responses::new(probe)),
            used: Cell::new(false),
        };
        event(&client.stream, "connected");
        Ok(client)
    }

    /// The address of the client.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends all of `bytes`.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.used.set(true);
        conversation::sent(&self.stream, bytes);
        (&self.stream).write_all(bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => {
                anyhow!("could not send for {}: the server does not read", seconds(timeout()))
            }
            _ => anyhow!(error).context("cannot send to the server"),
        })
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = (&self.stream).read(buffer);
        match &result {
            Ok(0) => event(&self.stream, "received EOF"),
            Ok(count) => conversation::received(&self.stream, &buffer[..*count]),
            Err(error) => event(&self.stream, &format!("read: {error}")),
        }
        result
    }

    /// Receives exactly `bytes`.
    pub fn expect(&self, bytes: &[u8]) -> Result<()> {
        let mut echo = vec![0; bytes.len()];
        let mut received = 0;
        while received < echo.len() {
            match self.read(&mut echo[received..]) {
                Ok(0) => {
                    bail!("the connection ended after {received} of {} bytes", bytes.len())
                }
                Ok(count) => received += count,
                Err(error) => {
                    let progress = format!("received {received} of {} bytes", bytes.len());
                    return Err(receive_error(error).context(progress));
                }
            }
        }
        ensure!(echo == bytes, "{} bytes came back, but not the bytes sent", bytes.len());
        Ok(())
    }

    /// Sends `bytes` and receives them back: for echo servers only.
    pub fn echo(&self, bytes: &[u8]) -> Result<()> {
        self.send(bytes)?;
        self.expect(bytes)
    }

    /// Sends a request. With an echo server each `seed` gives other bytes.
    pub fn send_request(&self, seed: u64) -> Result<()> {
        self.send(&self.probe.request(seed, REQUEST))
    }

    /// Receives the response to the request with this seed.
    pub fn expect_response(&self, seed: u64) -> Result<()> {
        if self.probe.is_echo() {
            return self.expect(&self.probe.request(seed, REQUEST));
        }
        let mut buffer = [0; 16 * 1024];
        let mut responses = self.responses.borrow_mut();
        let mut ended = false;
        while !responses.next(ended)? {
            ensure!(!ended, "the connection ended: received {}", quote(responses.rest()));
            let count = self.read(&mut buffer).map_err(|error| {
                receive_error(error).context(format!("received {}", quote(responses.rest())))
            })?;
            ended = count == 0;
            responses.push(&buffer[..count]);
        }
        Ok(())
    }

    /// Sends a request and receives the response.
    ///
    /// If the server closes each connection after one response, and this client has sent a request
    /// already, another connection is used.
    pub fn exchange(&self, seed: u64) -> Result<()> {
        if self.used.get() && !self.probe.persistent {
            return Self::connect_with(self.peer, &self.probe)?.exchange(seed);
        }
        self.send_request(seed)?;
        self.expect_response(seed)
    }

    /// Receives a line, without its end. `None`: the connection has ended instead.
    ///
    /// Leaves what comes after the line unread.
    pub fn line(&self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut chunk = [0; 4096];
        while line.last() != Some(&b'\n') {
            let available = match self.stream.peek(&mut chunk) {
                Err(error) if line.is_empty() && is_reset(&error) => 0,
                result => result.map_err(receive_error)?,
            };
            if available == 0 && line.is_empty() {
                event(&self.stream, "received the end of the connection");
                return Ok(None);
            }
            ensure!(available > 0, "the connection ended {} bytes into a line", line.len());
            let end = chunk[..available].iter().position(|&byte| byte == b'\n');
            let part = &mut chunk[..end.map_or(available, |end| end + 1)];
            (&self.stream).read_exact(part)?;
            conversation::received(&self.stream, part);
            line.extend_from_slice(part);
        }
        line.pop();
        Ok(Some(String::from_utf8(line).context("received a line that is not UTF-8")?))
    }

    /// Waits for the response to the request with this seed, or for the end of the connection.
    pub fn expect_response_or_end(&self, seed: u64) -> Result<Reply> {
        match self.stream.peek(&mut [0]) {
            Ok(0) => Ok(Reply::Closed),
            Err(error) if is_reset(&error) => Ok(Reply::Closed),
            Err(error) => Err(receive_error(error)),
            Ok(_) => match self.expect_response(seed) {
                Ok(()) => Ok(Reply::Response),
                // A server may refuse a client with an error message.
                Err(error) => {
                    let is_refusal = !self.probe.is_echo() && self.drain()?;
                    if is_refusal { Ok(Reply::Closed) } else { Err(error) }
                }
            },
        }
    }

    /// Reads until the connection ends. Whether it did within the timeout.
    pub fn drain(&self) -> Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if is_reset(&error) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(anyhow!(error).context("cannot receive")),
            }
        }
    }

    /// Waits for EOF. The server must not send anything before it.
    pub fn expect_end(&self) -> Result<()> {
        let mut buffer = [0; 100];
        match self.read(&mut buffer) {
            Ok(0) => Ok(()),
            Ok(count) => bail!("the server sent too much: {}", quote(&buffer[..count])),
            Err(error) => Err(receive_error(error).context("the connection did not end")),
        }
    }

    /// Ends the client's direction of the connection (FIN). The client can still receive.
    pub fn half_close(&self) -> Result<()> {
        event(&self.stream, "sent FIN");
        self.stream.shutdown(Shutdown::Write).context("cannot half-close")
    }

    /// Half-closes, and waits until the server has closed the connection and so freed its file
    /// descriptor.
    pub fn finish(self) -> Result<()> {
        self.half_close()?;
        if self.probe.is_echo() || self.probe.greeting.is_none() && self.used.get() {
            return self.expect_end();
        }
        ensure!(self.drain()?, "the server did not close the connection after the client's FIN");
        Ok(())
    }

    /// Whether the response to a request has arrived, without waiting for it.
    ///
    /// Fails if the server has closed the connection instead.
    pub fn has_response(&self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let available = if self.probe.greeting.is_none() {
            self.stream.peek(&mut [0])
        } else {
            self.peek_after_greeting()
        };
        self.stream.set_nonblocking(false)?;
        match available {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Ok(0) => Err(anyhow!("the server closed the connection")),
            result => Ok(result.map(|_| true)?),
        }
    }

    /// Whether anything has arrived from the server, without waiting for it.
    ///
    /// Fails if the server has closed the connection instead.
    pub fn has_greeting(&self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let available = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match available {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Ok(0) => Err(anyhow!("the server closed the connection")),
            result => Ok(result.map(|_| true)?),
        }
    }

    /// Waits until something arrives, and leaves it unread.
    pub fn wait_for_input(&self, limit: Duration) -> Result<()> {
        let mut input = [PollFd::new(&self.stream, PollFlags::IN)];
        let count = poll(&mut input, Some(&Timespec::try_from(limit)?))?;
        ensure!(count == 1, "received nothing for {}", seconds(limit));
        Ok(())
    }

    /// How many bytes have arrived after the greeting.
    fn peek_after_greeting(&self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let count = self.stream.peek(&mut buffer)?;
        let greeting = self.probe.greeting.as_ref().and_then(|it| it.find(&buffer[..count]));
        match greeting {
            Some(found) if found.end() < count => Ok(count - found.end()),
            _ if count == 0 => Ok(0),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends one byte of urgent data.
    pub fn send_urgent(&self, byte: u8) -> Result<()> {
        event(&self.stream, &format!("sent urgent data {}", quote(&[byte])));
        SockRef::from(&self.stream).send_out_of_band(&[byte])?;
        Ok(())
    }

    /// Closes the connection with RST. Data in flight in either direction is lost.
    pub fn reset(self) -> Result<()> {
        event(&self.stream, "sends RST");
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    /// The protocol that the client speaks.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns the socket.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// Whether the peer has reset the connection.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn receive_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock => anyhow!("received nothing for {}", seconds(timeout())),
        _ => anyhow!(error).context("cannot receive from the server"),
    }
}

/// A message of `count` bytes, different for each `seed`.
#[must_use]
pub fn message(seed: u64, count: usize) -> Vec<u8> {
    Pattern::new(seed).first(count)
}

/// Connects `count` clients and makes sure that the server serves each of them.
///
/// A server that closes a connection after a response only accepts them.
pub fn connect_many(server: &Server, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        // Not one by one, because a server that tries all its sockets at each wake-up needs a long
        // time for a thousand wake-ups.
        let group = server.backlog().min(count - clients.len());
        if !server.probe().persistent {
            clients.extend(connect_idle(server, group)?);
            continue;
        }
        // A response shows that the server has accepted the client. To look into the accept queue
        // is slower: /proc/net/tcp lists all connections in TIME_WAIT, too.
        let new: Vec<_> = (0..group).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        for client in &new {
            client.send_request(0)?;
        }
        for (number, client) in (clients.len() + 1..).zip(&new) {
            let who = || format!("client {number} of {count}");
            client.expect_response(0).with_context(who)?;
        }
        clients.extend(new);
    }
    Ok(clients)
}

/// Connects `count` clients that send nothing.
pub fn connect_idle(server: &Server, count: usize) -> Result<Vec<Client>> {
    /// A server that serves few clients at a time does not accept the others.
    const ACCEPTING: Duration = Duration::from_millis(300);
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        // In groups: if more clients than the backlog connect at once, they wait for a second.
        for _ in 0..server.backlog().min(count - clients.len()) {
            clients.push(Client::connect(server)?);
        }
        let _ = wait_until("the server to accept", ACCEPTING, || {
            Ok((sockets::accept_queue(server.address())? == 0).then_some(()))
        });
    }
    Ok(clients)
}
