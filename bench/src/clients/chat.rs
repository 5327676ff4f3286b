//! The clients of a chat. A few of them send lines, and all of them check what they receive.
//!
//! [`room`] knows the order of the lines. Clients that send nothing define it: each of them must
//! receive the same lines in the same order. A client that sends must receive them in this order
//! too, without its own lines.

mod client;
mod room;
#[cfg(test)]
mod tests;

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Clients, Tally, connections};
use client::Client;
use room::Room;

/// How many clients send. Each of them always has a line in flight.
const SENDERS: usize = 8;
/// Characters per line, without the name that the server adds.
const LINE_LENGTH: usize = 56;
/// Clients that connect before we check that all others have received the lines about them.
const BATCH: usize = 50;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub clients: usize,
    /// How long the server may send nothing although lines are in flight.
    pub timeout: Duration,
}

/// The clients, all in one thread. The first ones are the senders.
#[derive(Debug)]
pub struct ChatClients {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    room: Room,
    buffer: Vec<u8>,
    timeout: Duration,
    /// When something was last received, or when the first line was sent after all others had
    /// arrived.
    last_progress: Instant,
}

impl ChatClients {
    /// Connects. When this returns, every client has been greeted, and has received a line about
    /// each client that joined later.
    ///
    /// # Errors
    /// Fails if the server does not do so.
    pub fn connect(addr: SocketAddr, settings: Settings) -> Result<Self> {
        assert!(settings.clients > 1, "some clients only receive");
        let mut chat = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            room: Room::new(settings.clients, SENDERS.min(settings.clients / 2)),
            buffer: vec![0; 64 * 1024],
            timeout: settings.timeout,
            last_progress: Instant::now(),
        };
        while chat.clients.len() < settings.clients {
            for _ in 0..BATCH.min(settings.clients - chat.clients.len()) {
                chat.add_client(addr)?;
            }
            let present = chat.clients.len();
            chat.wait_until("greet or announce every client", |chat| {
                chat.clients.iter().all(|client| client.next_to_join() == present + 1)
            })?;
        }
        Ok(chat)
    }

    fn add_client(&mut self, addr: SocketAddr) -> Result<()> {
        let number = self.clients.len();
        let stream = connections::open(addr, self.timeout)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        let sender = (number < self.room.senders()).then_some(number);
        self.clients.push(Client::new(stream, sender));
        Ok(())
    }

    fn send_line(&mut self, sender: usize) -> Result<()> {
        let client = &mut self.clients[sender];
        let guest = client.guest().context("a client sends before it was greeted")?;
        // Each line has another text, so that a duplicated or late line is not the expected one.
        let text = format!("{:0LINE_LENGTH$}", self.room.next_line_number(sender));
        self.room.note_sent(sender, format!("guest{guest}: {text}").into_bytes());
        let bytes = format!("{text}\n");
        let count = client.stream().write(bytes.as_bytes()).context("cannot send")?;
        ensure!(count == bytes.len(), "the server does not read a line of {LINE_LENGTH} bytes");
        Ok(())
    }

    fn wait_until(&mut self, expected: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            self.wait(None, expected)?;
        }
        Ok(())
    }

    /// Waits once, and reads what has arrived.
    fn wait(&mut self, end: Option<Instant>, expected: &str) -> Result<()> {
        let now = Instant::now();
        let limit = self.last_progress + self.timeout;
        let deadline = end.map_or(limit, |end| end.min(limit));
        match self.poll.poll(&mut self.events, Some(deadline.saturating_duration_since(now))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        if !self.events.is_empty() {
            self.last_progress = now;
        } else if now >= limit {
            bail!(
                "the server did not {expected} within {} s{}",
                self.timeout.as_secs_f32(),
                self.room.describe_first_missing()
            );
        }
        let lines_before = self.room.end();
        for event in &self.events {
            self.clients[event.token().0].on_ready(&mut self.room, &mut self.buffer)?;
        }
        if self.room.end() > lines_before {
            for sender in 0..self.room.senders() {
                self.clients[sender].check_early_lines(&mut self.room)?;
            }
        }
        self.room.forget_complete_lines();
        Ok(())
    }
}

impl Clients for ChatClients {
    fn run(&mut self, time: Duration) -> Result<()> {
        let now = Instant::now();
        let end = now + time;
        if !self.room.has_lines_in_flight() {
            self.last_progress = now;
        }
        for sender in 0..self.room.senders() {
            if !self.room.is_in_flight(sender) {
                self.send_line(sender)?;
            }
        }
        while Instant::now() < end {
            self.wait(Some(end), "deliver a line")?;
            for sender in self.room.take_completed() {
                self.send_line(sender)?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.wait_until("deliver the last lines", |chat| !chat.room.has_lines_in_flight())?;
        self.room.take_completed();
        Ok(())
    }

    fn take(&mut self) -> Tally {
        self.room.take_tally()
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.drain()?;
        self.poll.poll(&mut self.events, Some(Duration::from_millis(20)))?;
        for event in &self.events {
            self.clients[event.token().0].on_ready(&mut self.room, &mut self.buffer)?;
        }
        ensure!(self.room.is_empty(), "a client received a line that no client had sent");
        Ok(())
    }
}
