//! The two clients of the session, and what they do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use contract::catalog::Kind;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::session::{Action, ActionKind, Client, Part, Session};
use crate::strace::Nanos;

/// The session continues when the clients have received nothing for this long.
const PAUSE: Duration = Duration::from_millis(30);
/// The silence before the one message that the comparison shows.
const SILENCE: Duration = Duration::from_millis(60);
/// Bytes that A sends at once before it reads any of them back.
const LARGE: usize = 80 * 1024;
/// Lines that A sends at once in the chat.
const LINES: usize = 24;
/// Size of the clients' receive buffers, and the largest segment of their connections, which is
/// that of Ethernet. The kernel buffers so little for a client that does not read that the server
/// notices.
const RECEIVE_BUFFER: usize = 8 * 1024;
const SEGMENT: u32 = 1448;

/// Runs the session against the server at `address`.
///
/// # Errors
/// Fails if the server refuses a connection or resets one.
pub fn run(address: SocketAddr, kind: Kind) -> Result<Session> {
    let mut driver = Driver { address, kind, parts: Vec::new(), sockets: Vec::new() };
    driver.run()?;
    let end = now();
    // The calls that the clients' disconnecting ends began within the session.
    for client in 0..driver.sockets.len() {
        driver.disconnect(client);
    }
    let clients = driver.sockets.into_iter().map(|socket| socket.client).collect();
    Ok(Session { parts: driver.parts, clients, end })
}

struct Driver {
    address: SocketAddr,
    kind: Kind,
    parts: Vec<Part>,
    sockets: Vec<ClientSocket>,
}

struct ClientSocket {
    client: Client,
    socket: Option<Socket>,
    /// Bytes that the kernel has not yet accepted.
    pending: Vec<u8>,
    reads: bool,
}

const A: usize = 0;
const B: usize = 1;

impl Driver {
    fn run(&mut self) -> Result<()> {
        if self.kind != Kind::Datagram {
            self.begin_part("A and B connect");
        }
        self.exchange(PAUSE)?;
        self.connect('A')?;
        self.exchange(PAUSE)?;
        self.connect('B')?;
        self.exchange(PAUSE)?;

        self.begin_part("Silence, then A sends a message");
        self.exchange(SILENCE)?;
        self.send(A, b"hello\n")?;
        self.exchange(PAUSE)?;

        self.begin_part("A and B send at the same time");
        self.send(A, b"one\n")?;
        self.send(B, b"two\n")?;
        self.exchange(PAUSE)?;

        let (title, reader) = match self.kind {
            Kind::Echo => ("A sends 80 KiB at once and reads later", A),
            Kind::Chat => ("A sends 24 lines at once; B reads later", B),
            Kind::Datagram => ("A sends three datagrams and reads later", A),
        };
        self.begin_part(title);
        self.sockets[reader].reads = false;
        match self.kind {
            Kind::Echo => self.send(A, &vec![b'x'; LARGE])?,
            Kind::Chat => {
                let line = "a line that is not short and not long\n";
                self.send(A, line.repeat(LINES).as_bytes())?;
            }
            Kind::Datagram => {
                for datagram in [&b"one\n"[..], b"two\n", b"three\n"] {
                    self.send(A, datagram)?;
                }
            }
        }
        self.exchange(PAUSE)?;
        self.sockets[reader].reads = true;
        self.exchange(PAUSE)?;

        if self.kind != Kind::Datagram {
            self.begin_part("A disconnects");
            self.disconnect(A);
            self.exchange(PAUSE)?;
        }
        Ok(())
    }

    fn begin_part(&mut self, title: &str) {
        self.parts.push(Part { start: now(), title: title.to_owned() });
    }

    fn connect(&mut self, name: char) -> Result<()> {
        let mut client = Client { name, port: 0, actions: Vec::new() };
        let socket = if self.kind == Kind::Datagram {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            socket.connect(&self.address.into())?;
            socket
        } else {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.set_send_buffer_size(2 * LARGE)?;
            socket.set_tcp_mss(SEGMENT)?;
            let start = now();
            socket.connect(&self.address.into())?;
            client.actions.push(Action { start, end: now(), kind: ActionKind::Connect });
            socket
        };
        socket.set_nonblocking(true)?;
        client.port = socket.local_addr()?.as_socket().context("the socket has no port")?.port();
        let pending = Vec::new();
        self.sockets.push(ClientSocket { client, socket: Some(socket), pending, reads: true });
        Ok(())
    }

    fn send(&mut self, client: usize, bytes: &[u8]) -> Result<()> {
        self.sockets[client].pending.extend(bytes);
        self.sockets[client].flush()
    }

    fn disconnect(&mut self, client: usize) {
        let socket = &mut self.sockets[client];
        let start = now();
        if socket.socket.take().is_some() {
            let action = Action { start, end: now(), kind: ActionKind::Disconnect };
            socket.client.actions.push(action);
        }
    }

    /// Lets the clients read and write until nothing has happened for as long as `pause`.
    fn exchange(&mut self, pause: Duration) -> Result<()> {
        let timeout = PollTimeout::try_from(pause)?;
        loop {
            let mut watched = Vec::new();
            let mut fds = Vec::new();
            for (index, client) in self.sockets.iter().enumerate() {
                if let (Some(socket), Some(events)) = (&client.socket, client.events()) {
                    watched.push(index);
                    fds.push(PollFd::new(socket.as_fd(), events));
                }
            }
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => bail!(error),
            }
            let is_ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            for (index, is_ready) in watched.into_iter().zip(is_ready) {
                if is_ready {
                    self.sockets[index].on_ready()?;
                }
            }
        }
    }
}

impl ClientSocket {
    /// The events to wait for.
    fn events(&self) -> Option<PollFlags> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.reads);
        events.set(PollFlags::POLLOUT, !self.pending.is_empty());
        (!events.is_empty()).then_some(events)
    }

    fn on_ready(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        if self.reads {
            self.receive()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(()) };
        let start = now();
        match socket.write(&self.pending) {
            Ok(count) => {
                self.pending.drain(..count);
                let kind = ActionKind::Send(count as u64);
                self.client.actions.push(Action { start, end: now(), kind });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => bail!(error),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(()) };
        let mut buffer = [0; 16 * 1024];
        let start = now();
        match socket.read(&mut buffer) {
            Ok(0) => self.socket = None, // the server has closed the connection
            Ok(count) => {
                let kind = ActionKind::Receive(count as u64);
                self.client.actions.push(Action { start, end: now(), kind });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => bail!(error),
        }
        Ok(())
    }
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as Nanos
}
