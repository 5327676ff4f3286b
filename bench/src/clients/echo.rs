//! Echo clients. Each has a window of messages in flight, and checks every byte that it receives.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::connections::{self, HELLO};
use super::pattern::{MAX_SLICE, Pattern};
use super::{Clients, Tally};

/// What the clients send.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub connections: usize,
    /// Bytes per message.
    pub message_size: usize,
    /// Messages that each connection keeps in flight.
    pub window: usize,
    /// How long the server may send nothing although messages are in flight.
    pub timeout: Duration,
}

/// The clients, all in one thread.
#[derive(Debug)]
pub struct EchoClients {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    shared: Shared,
    /// When something was last received, or when the first message was sent after all others had
    /// come back.
    last_progress: Instant,
}

/// What the connections share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    pattern: Pattern,
    buffer: Vec<u8>,
    /// Whether a message that came back is followed by another one.
    sending: bool,
    /// Messages in flight on all connections.
    in_flight: usize,
    tally: Tally,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The number of its stream.
    number: usize,
    /// Bytes of started messages that the socket has not yet accepted.
    pending: usize,
    sent: u64,
    received: u64,
    /// Messages that came back.
    completed: u64,
    /// When the messages in flight were started, the oldest first.
    started: VecDeque<Instant>,
}

impl EchoClients {
    /// Connects. When this returns, the server serves all connections.
    ///
    /// # Errors
    /// Fails if the server refuses a connection or sends wrong bytes.
    pub fn connect(addr: SocketAddr, settings: Settings) -> Result<Self> {
        assert!(settings.message_size > 0 && settings.window > 0, "there is something to send");
        let pattern = Pattern::new();
        let streams =
            connections::connect(addr, &pattern, 0, settings.connections, settings.timeout)?;
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(streams.len());
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(number), interest)?;
            connections.push(Connection {
                stream,
                number,
                pending: 0,
                sent: HELLO as u64,
                received: HELLO as u64,
                completed: 0,
                started: VecDeque::with_capacity(settings.window),
            });
        }
        let shared = Shared {
            settings,
            pattern,
            buffer: vec![0; MAX_SLICE],
            sending: false,
            in_flight: 0,
            tally: Tally::new(),
        };
        let events = Events::with_capacity(1024);
        Ok(Self { poll, events, connections, shared, last_progress: Instant::now() })
    }

    /// Sends and receives until `end`, or until no message is in flight.
    fn exchange(&mut self, end: Option<Instant>) -> Result<()> {
        let timeout = self.shared.settings.timeout;
        while end.is_some() || self.shared.in_flight > 0 {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            let limit = self.last_progress + timeout;
            let deadline = end.map_or(limit, |end| end.min(limit));
            match self.poll.poll(&mut self.events, Some(deadline.saturating_duration_since(now))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            if !self.events.is_empty() {
                self.last_progress = now;
            } else if now >= limit {
                bail!(
                    "{} messages did not come back within {} s",
                    self.shared.in_flight,
                    timeout.as_secs_f32()
                );
            }
            for event in &self.events {
                self.connections[event.token().0].on_ready(&mut self.shared)?;
            }
        }
        Ok(())
    }
}

impl Clients for EchoClients {
    fn run(&mut self, time: Duration) -> Result<()> {
        self.shared.sending = true;
        let now = Instant::now();
        if self.shared.in_flight == 0 {
            self.last_progress = now;
        }
        for connection in &mut self.connections {
            while connection.started.len() < self.shared.settings.window {
                connection.start_message(&mut self.shared, now);
            }
            connection.flush(&self.shared)?;
        }
        self.exchange(Some(now + time))
    }

    fn drain(&mut self) -> Result<()> {
        self.shared.sending = false;
        self.exchange(None)
    }

    fn take(&mut self) -> Tally {
        std::mem::replace(&mut self.shared.tally, Tally::new())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.drain()?;
        let timeout = self.shared.settings.timeout;
        let streams: Vec<std::net::TcpStream> =
            self.connections.into_iter().map(|connection| connection.stream.into()).collect();
        for stream in &streams {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.shutdown(Shutdown::Write)?;
        }
        for mut stream in streams {
            let count = stream.read(&mut [0]).context("no end of input after a half-close")?;
            ensure!(count == 0, "more came back than was sent");
        }
        Ok(())
    }
}

impl Connection {
    /// Adds a message to the pending output.
    fn start_message(&mut self, shared: &mut Shared, now: Instant) {
        self.pending += shared.settings.message_size;
        self.started.push_back(now);
        shared.in_flight += 1;
    }

    fn flush(&mut self, shared: &Shared) -> Result<()> {
        while self.pending > 0 {
            let bytes = shared.pattern.at(self.number, self.sent, self.pending.min(MAX_SLICE));
            match self.stream.write(bytes) {
                Ok(count) => {
                    self.sent += count as u64;
                    self.pending -= count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn on_ready(&mut self, shared: &mut Shared) -> Result<()> {
        loop {
            let count = match self.stream.read(&mut shared.buffer) {
                Ok(0) => bail!("the server closed a connection after {} bytes", self.received),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            self.check(shared, count)?;
            let now = Instant::now();
            let complete = (self.received - HELLO as u64) / shared.settings.message_size as u64;
            while self.completed < complete {
                self.completed += 1;
                let started = self.started.pop_front().context("more came back than was sent")?;
                shared.in_flight -= 1;
                shared.tally.messages += 1;
                shared.tally.record(now - started);
                if shared.sending {
                    self.start_message(shared, now);
                }
            }
            self.flush(shared)?;
            // A short read means that the socket is empty: the servers send no urgent data. Data
            // that arrives now raises an edge.
            if count < shared.buffer.len() {
                return Ok(());
            }
        }
        self.flush(shared)
    }

    /// Compares the bytes in the buffer with those that were sent.
    fn check(&mut self, shared: &Shared, count: usize) -> Result<()> {
        let end = self.received + count as u64;
        ensure!(end <= self.sent, "more came back than was sent");
        ensure!(
            shared.buffer[..count] == *shared.pattern.at(self.number, self.received, count),
            "other bytes came back than were sent, from byte {} on",
            self.received
        );
        self.received = end;
        Ok(())
    }
}

/// Runs one connection that sends a message from time to time, at moments that do not depend on
/// the server: the pause between a reply and the next message is random, up to twice `pause`.
///
/// # Errors
/// Fails if the server sends wrong bytes, or none within the timeout.
pub fn run_occasional(
    addr: SocketAddr,
    settings: Settings,
    pause: Duration,
    time: Duration,
) -> Result<Tally> {
    let pattern = Pattern::new();
    let mut streams = connections::connect(addr, &pattern, 0, 1, settings.timeout)?;
    let stream = &mut streams[0];
    let mut offset = HELLO as u64;
    let mut reply = vec![0; settings.message_size];
    let mut tally = Tally::new();
    let mut random = fastrand::Rng::with_seed(1);
    let end = Instant::now() + time;
    while Instant::now() < end {
        thread::sleep(pause.mul_f64(2.0 * random.f64()));
        let message = pattern.at(0, offset, settings.message_size);
        let sent = Instant::now();
        stream.write_all(message).context("cannot send")?;
        stream.read_exact(&mut reply).context("no reply")?;
        tally.record(sent.elapsed());
        ensure!(reply == message, "other bytes came back than were sent, from byte {offset} on");
        tally.messages += 1;
        offset += settings.message_size as u64;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Mutex;

    use super::*;

    const SETTINGS: Settings =
        Settings { connections: 3, message_size: 100, window: 4, timeout: Duration::from_secs(2) };

    /// Returns what a server sends back for a chunk. The first argument is the number of chunks
    /// before it.
    type Reply = fn(usize, &[u8]) -> Vec<u8>;

    fn start_server(reply: Reply) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client connects");
                thread::spawn(move || {
                    let mut buffer = [0; 1000];
                    for number in 0.. {
                        match stream.read(&mut buffer) {
                            Ok(0) | Err(_) => return,
                            Ok(count) => {
                                let bytes = reply(number, &buffer[..count]);
                                if stream.write_all(&bytes).is_err() {
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        addr
    }

    fn run(addr: SocketAddr, settings: Settings) -> Result<u64> {
        let mut clients = EchoClients::connect(addr, settings)?;
        let mut messages = 0;
        // Until long after the mistakes of the wrong servers, however slow the machine is.
        while messages < 100 {
            clients.run(Duration::from_millis(10))?;
            messages += clients.take().messages;
        }
        clients.drain()?;
        messages += clients.take().messages;
        Box::new(clients).finish()?;
        Ok(messages)
    }

    fn failure(reply: Reply) -> String {
        let error = run(start_server(reply), SETTINGS).expect_err("the server is wrong");
        format!("{error:#}")
    }

    #[test]
    fn messages_of_a_correct_server_are_counted() {
        let addr = start_server(|_, bytes| bytes.to_vec());
        assert!(run(addr, SETTINGS).expect("the server is correct") >= 100);
        let large = Settings { message_size: 100_000, window: 2, ..SETTINGS };
        assert!(run(addr, large).expect("the server is correct") >= 100);
        let pause = Duration::from_millis(1);
        let tally =
            run_occasional(addr, SETTINGS, pause, 20 * pause).expect("the server is correct");
        assert_eq!(tally.messages, tally.latency.len());
        assert!(tally.messages > 0);
    }

    #[test]
    fn a_dropped_byte_is_found() {
        let failure = failure(|number, bytes| bytes[usize::from(number == 3)..].to_vec());
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn a_dropped_last_message_is_found() {
        let failure = failure(|number, bytes| if number < 3 { bytes.to_vec() } else { Vec::new() });
        assert!(failure.contains("did not come back"), "{failure}");
    }

    #[test]
    fn a_duplicated_message_is_found() {
        let failure = failure(|number, bytes| bytes.repeat(if number == 3 { 2 } else { 1 }));
        assert!(failure.contains("other bytes") || failure.contains("more came"), "{failure}");
    }

    #[test]
    fn swapped_bytes_are_found() {
        let failure = failure(|number, bytes| {
            let mut bytes = bytes.to_vec();
            if number == 3 {
                let half = bytes.len() / 2;
                bytes.rotate_left(half);
            }
            bytes
        });
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn a_changed_bit_is_found() {
        let failure = failure(|number, bytes| {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= u8::from(number == 3);
            bytes
        });
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn bytes_of_another_connection_are_found() {
        // Each connection receives what another one sent last.
        static LAST: Mutex<Vec<u8>> = Mutex::new(Vec::new());
        let failure = failure(|number, bytes| {
            if number == 0 {
                return bytes.to_vec();
            }
            let mut last = LAST.lock().expect("no thread panics");
            let mut other = std::mem::replace(&mut *last, bytes.to_vec());
            other.resize(bytes.len(), 0);
            other
        });
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn a_closed_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client connects");
            let mut buffer = [0; 1000];
            for _ in 0..3 {
                let count = stream.read(&mut buffer).expect("the client sends");
                stream.write_all(&buffer[..count]).expect("the client reads");
            }
        });
        let settings = Settings { connections: 1, ..SETTINGS };
        let error = run(addr, settings).expect_err("the server is wrong");
        let failure = format!("{error:#}");
        assert!(failure.contains("closed") || failure.contains("reset"), "{failure}");
    }

    #[test]
    fn bytes_after_the_last_message_are_found() {
        // The server also replies to the end of the input.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client connects");
            let mut buffer = [0; 1000];
            loop {
                let count = stream.read(&mut buffer).expect("the client sends");
                stream.write_all(&buffer[..count.max(1)]).expect("the client reads");
                if count == 0 {
                    return;
                }
            }
        });
        let settings = Settings { connections: 1, ..SETTINGS };
        let error = run(addr, settings).expect_err("the server is wrong");
        assert!(format!("{error:#}").contains("more came back"), "{error:#}");
    }
}
