//! Echo clients: each has a window of messages on their way, and checks every byte that comes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::crowd::{self, HELLO};
use super::pattern::{LONGEST, Pattern};
use super::{Clients, Tally};

/// How the clients behave.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub connections: usize,
    /// Bytes of a message.
    pub message: usize,
    /// Messages that a connection has on their way.
    pub window: usize,
    /// How long the server may keep silent while it owes something.
    pub patience: Duration,
}

/// Clients in one thread.
#[derive(Debug)]
pub struct Load {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    common: Common,
    /// When something came for the last time, or something was owed again for the first.
    heard: Instant,
}

/// What a connection needs besides its own.
#[derive(Debug)]
struct Common {
    shape: Shape,
    pattern: Pattern,
    /// What was read last.
    buffer: Vec<u8>,
    /// A message that came back is followed by another.
    sending: bool,
    /// Messages on their way, of all connections.
    owed: usize,
    tally: Tally,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    number: usize,
    /// To be sent, and kept back by a socket that takes no more.
    due: usize,
    sent: u64,
    received: u64,
    /// Messages back.
    done: u64,
    /// When those on their way were sent, the oldest first.
    times: VecDeque<Instant>,
}

impl Load {
    /// Connects; the connections are known to be served when this returns.
    pub fn connect(addr: SocketAddr, shape: Shape) -> Result<Self> {
        assert!(shape.message > 0 && shape.window > 0, "there is something to send");
        let pattern = Pattern::new();
        let streams = crowd::connect(addr, &pattern, 0, shape.connections, shape.patience)?;
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(streams.len());
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(number), interest)?;
            let (sent, received) = (HELLO as u64, HELLO as u64);
            let times = VecDeque::with_capacity(shape.window);
            connections.push(Connection { stream, number, due: 0, sent, received, done: 0, times });
        }
        let (buffer, tally) = (vec![0; LONGEST], Tally::new());
        let common = Common { shape, pattern, buffer, sending: false, owed: 0, tally };
        let (events, heard) = (Events::with_capacity(1024), Instant::now());
        Ok(Self { poll, events, connections, common, heard })
    }

    /// Until `end`, or until nothing is owed any more.
    fn go_on(&mut self, end: Option<Instant>) -> Result<()> {
        let patience = self.common.shape.patience;
        while end.is_some() || self.common.owed > 0 {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            let limit = self.heard + patience;
            let deadline = end.map_or(limit, |end| end.min(limit));
            match self.poll.poll(&mut self.events, Some(deadline.saturating_duration_since(now))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            if !self.events.is_empty() {
                self.heard = now;
            } else if now >= limit {
                bail!(
                    "{} messages did not come back within {} s",
                    self.common.owed,
                    patience.as_secs_f32()
                );
            }
            for event in &self.events {
                self.connections[event.token().0].go_on(&mut self.common)?;
            }
        }
        Ok(())
    }
}

impl Clients for Load {
    fn run(&mut self, time: Duration) -> Result<()> {
        self.common.sending = true;
        let now = Instant::now();
        if self.common.owed == 0 {
            self.heard = now;
        }
        for connection in &mut self.connections {
            while connection.times.len() < self.common.shape.window {
                connection.another(&mut self.common, now);
            }
            connection.send(&self.common)?;
        }
        self.go_on(Some(now + time))
    }

    fn drain(&mut self) -> Result<()> {
        self.common.sending = false;
        self.go_on(None)
    }

    fn take(&mut self) -> Tally {
        std::mem::replace(&mut self.common.tally, Tally::new())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.drain()?;
        let patience = self.common.shape.patience;
        let streams: Vec<std::net::TcpStream> =
            self.connections.into_iter().map(|connection| connection.stream.into()).collect();
        for stream in &streams {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(patience))?;
            stream.shutdown(Shutdown::Write)?;
        }
        for mut stream in streams {
            let count = stream.read(&mut [0]).context("no end after a half-close")?;
            ensure!(count == 0, "more came back than was sent");
        }
        Ok(())
    }
}

impl Connection {
    /// One more message to send.
    fn another(&mut self, common: &mut Common, now: Instant) {
        self.due += common.shape.message;
        self.times.push_back(now);
        common.owed += 1;
    }

    fn send(&mut self, common: &Common) -> Result<()> {
        while self.due > 0 {
            let bytes = common.pattern.at(self.number, self.sent, self.due.min(LONGEST));
            match self.stream.write(bytes) {
                Ok(count) => {
                    self.sent += count as u64;
                    self.due -= count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn go_on(&mut self, common: &mut Common) -> Result<()> {
        loop {
            let count = match self.stream.read(&mut common.buffer) {
                Ok(0) => bail!("the server closed a connection after {} bytes", self.received),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            self.check(common, count)?;
            let now = Instant::now();
            let whole = (self.received - HELLO as u64) / common.shape.message as u64;
            while self.done < whole {
                self.done += 1;
                let sent = self.times.pop_front().context("more came back than was sent")?;
                common.owed -= 1;
                common.tally.messages += 1;
                common.tally.record(now - sent);
                if common.sending {
                    self.another(common, now);
                }
            }
            self.send(common)?;
            // A read that did not fill the buffer has emptied the socket: what comes now is news.
            if count < common.buffer.len() {
                return Ok(());
            }
        }
        self.send(common)
    }

    fn check(&mut self, common: &Common, count: usize) -> Result<()> {
        let end = self.received + count as u64;
        ensure!(end <= self.sent, "more came back than was sent");
        ensure!(
            common.buffer[..count] == *common.pattern.at(self.number, self.received, count),
            "other bytes came back than were sent, from byte {} on",
            self.received
        );
        self.received = end;
        Ok(())
    }
}

/// One connection that sends a message now and then, at moments that do not depend on the
/// server: with pauses from none to twice `pause` between an answer and the next message.
pub fn now_and_then(
    addr: SocketAddr,
    shape: Shape,
    pause: Duration,
    time: Duration,
) -> Result<Tally> {
    let pattern = Pattern::new();
    let mut streams = crowd::connect(addr, &pattern, 0, 1, shape.patience)?;
    let stream = &mut streams[0];
    let mut offset = HELLO as u64;
    let mut echo = vec![0; shape.message];
    let mut tally = Tally::new();
    let mut random = fastrand::Rng::with_seed(1);
    let end = Instant::now() + time;
    while Instant::now() < end {
        thread::sleep(pause.mul_f64(2.0 * random.f64()));
        let message = pattern.at(0, offset, shape.message);
        let sent = Instant::now();
        stream.write_all(message).context("cannot send")?;
        stream.read_exact(&mut echo).context("no answer")?;
        tally.record(sent.elapsed());
        ensure!(echo == message, "other bytes came back than were sent, from byte {offset} on");
        tally.messages += 1;
        offset += shape.message as u64;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const SHAPE: Shape =
        Shape { connections: 3, message: 100, window: 4, patience: Duration::from_secs(2) };

    /// Serves with `answer`, which turns a chunk into what is sent back for it; its first
    /// argument says how many chunks were before.
    fn server(answer: fn(usize, &[u8]) -> Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                thread::spawn(move || {
                    let mut buffer = [0; 1000];
                    for number in 0.. {
                        match stream.read(&mut buffer) {
                            Ok(0) | Err(_) => return,
                            Ok(count) => {
                                let bytes = answer(number, &buffer[..count]);
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

    fn load(addr: SocketAddr, shape: Shape) -> Result<u64> {
        let mut load = Load::connect(addr, shape)?;
        let mut messages = 0;
        // However slow the machine is: until long after what a wrong server does wrong.
        while messages < 100 {
            load.run(Duration::from_millis(10))?;
            messages += load.take().messages;
        }
        load.drain()?;
        messages += load.take().messages;
        Box::new(load).finish()?;
        Ok(messages)
    }

    fn failure(answer: fn(usize, &[u8]) -> Vec<u8>) -> String {
        let error = load(server(answer), SHAPE).expect_err("the server is wrong");
        format!("{error:#}")
    }

    #[test]
    fn counts_what_a_right_server_echoes() {
        let addr = server(|_, bytes| bytes.to_vec());
        assert!(load(addr, SHAPE).expect("it is right") >= 100);
        let large = Shape { message: 100_000, window: 2, ..SHAPE };
        assert!(load(addr, large).expect("it is right") >= 100);
        let pause = Duration::from_millis(1);
        let tally = now_and_then(addr, SHAPE, pause, 20 * pause).expect("it is right");
        assert_eq!(tally.messages, tally.latency.len());
        assert!(tally.messages > 0);
    }

    #[test]
    fn catches_a_byte_that_is_dropped() {
        let failure = failure(|number, bytes| bytes[usize::from(number == 3)..].to_vec());
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn catches_a_last_message_that_is_dropped() {
        let failure = failure(|number, bytes| if number < 3 { bytes.to_vec() } else { Vec::new() });
        assert!(failure.contains("did not come back"), "{failure}");
    }

    #[test]
    fn catches_a_message_that_is_doubled() {
        let failure = failure(|number, bytes| bytes.repeat(if number == 3 { 2 } else { 1 }));
        assert!(failure.contains("other bytes") || failure.contains("more came"), "{failure}");
    }

    #[test]
    fn catches_bytes_that_are_swapped() {
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
    fn catches_a_bit_that_is_changed() {
        let failure = failure(|number, bytes| {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= u8::from(number == 3);
            bytes
        });
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn catches_the_bytes_of_another_connection() {
        // Each connection gets what the one before it sent last.
        static LAST: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());
        let failure = failure(|number, bytes| {
            if number == 0 {
                return bytes.to_vec();
            }
            let mut last = LAST.lock().expect("nobody panics");
            let mut other = std::mem::replace(&mut *last, bytes.to_vec());
            other.resize(bytes.len(), 0);
            other
        });
        assert!(failure.contains("other bytes"), "{failure}");
    }

    #[test]
    fn catches_a_connection_that_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buffer = [0; 1000];
            for _ in 0..3 {
                let count = stream.read(&mut buffer).expect("it does not reset");
                stream.write_all(&buffer[..count]).expect("it reads");
            }
        });
        let shape = Shape { connections: 1, ..SHAPE };
        let error = load(addr, shape).expect_err("the server is wrong");
        let failure = format!("{error:#}");
        assert!(failure.contains("closed") || failure.contains("reset"), "{failure}");
    }

    #[test]
    fn catches_what_is_sent_after_the_last_message() {
        // The end of the input is answered, too.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buffer = [0; 1000];
            loop {
                let count = stream.read(&mut buffer).expect("it does not reset");
                stream.write_all(&buffer[..count.max(1)]).expect("it reads");
                if count == 0 {
                    return;
                }
            }
        });
        let shape = Shape { connections: 1, ..SHAPE };
        let error = load(addr, shape).expect_err("the server is wrong");
        assert!(format!("{error:#}").contains("more came back"), "{error:#}");
    }
}
