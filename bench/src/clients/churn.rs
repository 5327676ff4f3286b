//! Clients that connect, send one message, and close the connection when it has come back.
//!
//! They close with RST (`SO_LINGER` with a timeout of 0). After a usual close, each connection would
//! occupy a port of the client in `TIME_WAIT` for a minute, and after a second all ports would be
//! occupied.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::pattern::Pattern;
use super::{Clients, Tally};

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many connections there are at a time.
    pub at_once: usize,
    /// Bytes per message.
    pub message_size: usize,
    /// How long the server may send nothing although messages are in flight.
    pub timeout: Duration,
}

/// The clients, all in one thread.
#[derive(Debug)]
pub struct ChurnClients {
    addr: SocketAddr,
    settings: Settings,
    poll: Poll,
    events: Events,
    /// The token of a connection is its index. A connection that has ended is replaced by a new one.
    connections: Vec<Option<Connection>>,
    pattern: Pattern,
    buffer: Vec<u8>,
    /// The number of the next connection, which is that of its stream.
    next: usize,
    /// Whether a connection that has ended is followed by another one.
    connecting: bool,
    tally: Tally,
    /// When something was last received, or when the first connection was opened after all others
    /// had ended.
    last_progress: Instant,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The number of its stream.
    number: usize,
    /// When it was opened.
    started: Instant,
    sent: usize,
    received: usize,
}

impl ChurnClients {
    /// # Errors
    /// Fails if there are not enough file descriptors.
    pub fn new(addr: SocketAddr, settings: Settings) -> Result<Self> {
        assert!(settings.message_size > 0 && settings.at_once > 0, "there is something to send");
        Ok(Self {
            addr,
            settings,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: (0..settings.at_once).map(|_| None).collect(),
            pattern: Pattern::new(),
            buffer: vec![0; settings.message_size + 1],
            next: 0,
            connecting: false,
            tally: Tally::new(),
            last_progress: Instant::now(),
        })
    }

    /// Opens a connection and sends its message, or as much of it as the socket takes.
    fn open(&mut self, index: usize) -> Result<()> {
        let started = Instant::now();
        let number = self.next;
        self.next += 1;
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(self.addr), kind, None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&self.addr.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            result => result.context("cannot connect")?,
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest)?;
        let mut connection = Connection { stream, number, started, sent: 0, received: 0 };
        connection.send(&self.pattern, self.settings.message_size)?;
        self.connections[index] = Some(connection);
        Ok(())
    }

    fn open_missing(&mut self) -> Result<()> {
        for index in 0..self.connections.len() {
            if self.connections[index].is_none() {
                self.open(index)?;
            }
        }
        Ok(())
    }

    fn on_ready(&mut self, index: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let size = self.settings.message_size;
        connection.send(&self.pattern, size)?;
        if !connection.receive(&self.pattern, &mut self.buffer, size)? {
            return Ok(());
        }
        self.tally.messages += 1;
        self.tally.record(connection.started.elapsed());
        self.connections[index] = None; // closed, with RST
        if self.connecting { self.open(index) } else { Ok(()) }
    }

    /// Connects, sends and receives until `end`, or until no connection is open.
    fn exchange(&mut self, end: Option<Instant>) -> Result<()> {
        while end.is_some() || self.connections.iter().any(Option::is_some) {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            let limit = self.last_progress + self.settings.timeout;
            let deadline = end.map_or(limit, |end| end.min(limit));
            match self.poll.poll(&mut self.events, Some(deadline.saturating_duration_since(now))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            if !self.events.is_empty() {
                self.last_progress = now;
            } else if now >= limit {
                let open = self.connections.iter().flatten().count();
                let seconds = self.settings.timeout.as_secs_f32();
                bail!("{open} messages did not come back within {seconds} s");
            }
            // A connection that is opened meanwhile has events in the next iteration.
            let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            for index in ready {
                self.on_ready(index)?;
            }
        }
        Ok(())
    }
}

impl Clients for ChurnClients {
    fn run(&mut self, time: Duration) -> Result<()> {
        let now = Instant::now();
        if self.connections.iter().all(Option::is_none) {
            self.last_progress = now;
        }
        self.connecting = true;
        self.open_missing()?;
        self.exchange(Some(now + time))
    }

    fn drain(&mut self) -> Result<()> {
        self.connecting = false;
        self.exchange(None)
    }

    fn take(&mut self) -> Tally {
        std::mem::replace(&mut self.tally, Tally::new())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.drain()
    }
}

impl Connection {
    fn send(&mut self, pattern: &Pattern, size: usize) -> Result<()> {
        while self.sent < size {
            let message = pattern.at(self.number, self.sent as u64, size - self.sent);
            match self.stream.write(message) {
                Ok(count) => self.sent += count,
                // `NotConnected`: the server's SYN has not arrived yet.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    /// Receives and checks what has arrived. Returns whether that is the whole message.
    fn receive(&mut self, pattern: &Pattern, buffer: &mut [u8], size: usize) -> Result<bool> {
        while self.received < size {
            let count = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed a connection after {} bytes", self.received),
                Ok(count) => count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            ensure!(self.received + count <= self.sent, "more came back than was sent");
            ensure!(
                buffer[..count] == *pattern.at(self.number, self.received as u64, count),
                "other bytes came back than were sent, from byte {} on",
                self.received
            );
            self.received += count;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const SETTINGS: Settings =
        Settings { at_once: 3, message_size: 100, timeout: Duration::from_secs(2) };

    /// Starts a server that answers each connection with `reply`, one after the other. Also returns
    /// the number of connections that it has accepted.
    fn start_server(reply: fn(&mut TcpStream, [u8; 100])) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client connects");
                count.fetch_add(1, Ordering::SeqCst);
                let mut message = [0; 100];
                if stream.read_exact(&mut message).is_ok() {
                    reply(&mut stream, message);
                }
                // Until the client closes the connection, with or without RST.
                let _ = stream.read(&mut message);
            }
        });
        (addr, accepted)
    }

    fn run(addr: SocketAddr, messages: u64) -> Result<Tally> {
        let mut clients = Box::new(ChurnClients::new(addr, SETTINGS)?);
        let mut tally = Tally::new();
        while tally.messages < messages {
            clients.run(Duration::from_millis(10))?;
            tally.add(&clients.take());
        }
        clients.drain()?;
        tally.add(&clients.take());
        clients.finish()?;
        Ok(tally)
    }

    fn failure(reply: fn(&mut TcpStream, [u8; 100])) -> String {
        let error = run(start_server(reply).0, 100).expect_err("the server is wrong");
        format!("{error:#}")
    }

    #[test]
    fn each_message_has_a_connection_of_its_own() {
        let (addr, accepted) = start_server(|stream, message| {
            let _ = stream.write_all(&message);
        });
        let tally = run(addr, 100).expect("the server is correct");
        assert_eq!(tally.messages, tally.latency.len());
        assert_eq!(tally.messages, accepted.load(Ordering::SeqCst) as u64);
    }

    #[test]
    fn wrong_replies_are_found() {
        let changed = failure(|stream, mut message| {
            message[50] ^= 1;
            let _ = stream.write_all(&message);
        });
        assert!(changed.contains("other bytes"), "{changed}");
        let closed = failure(|stream, message| {
            let _ = stream.write_all(&message[..50]);
            let _ = stream.shutdown(std::net::Shutdown::Write);
        });
        assert!(closed.contains("closed a connection after"), "{closed}");
        let silent = failure(|_, _| {});
        assert!(silent.contains("did not come back"), "{silent}");
    }
}
