//! A client of a NATS server: of our broker, or of a real nats-server.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::Value;

use super::event::{Event, Message};
use super::protocol::{Op, parse, read_payload};
use super::server_addr::server_addr;
use super::subject::{check_pattern, check_subject, check_word};
use crate::{DeadlineStream, connect, printable, read_line};

/// The longest line in bytes: the `INFO` of a cluster names all its servers.
const MAX_LINE: usize = 32 << 10;
/// The largest payload that a server may be configured for.
const MAX_PAYLOAD: usize = 64 << 20;
/// How long a server may take to answer, or to receive what the client sends.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: Arc<TcpStream>,
    input: BufReader<DeadlineStream<Arc<TcpStream>>>,
    /// Messages that arrived while `flush` waited for a PONG.
    received: VecDeque<Message>,
    last_sid: u64,
    max_payload: usize,
}

impl Client {
    /// Connects to the first of `servers` that answers: `[nats://]HOST[:PORT]`, separated by
    /// commas.
    ///
    /// # Errors
    /// The error of the last server.
    pub fn connect(servers: &str) -> anyhow::Result<Self> {
        let mut failure = anyhow!("no server given");
        for server in servers.split(',') {
            let client = server_addr(server).and_then(|addr| Self::connect_to(&addr));
            match client.with_context(|| format!("cannot use {server:?}")) {
                Ok(client) => return Ok(client),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn connect_to(addr: &str) -> anyhow::Result<Self> {
        let stream = Arc::new(connect(addr, Instant::now() + TIMEOUT)?);
        let input = DeadlineStream::new(Arc::clone(&stream), Instant::now() + TIMEOUT);
        let mut client = Self {
            stream,
            input: BufReader::new(input),
            received: VecDeque::new(),
            last_sid: 0,
            max_payload: 0,
        };
        let line = read_line(&mut client.input, MAX_LINE)?.unwrap_or_default();
        let Ok(Op::Info(info)) = parse(&line) else { bail!("this is not a NATS server") };
        let info: Value = serde_json::from_str(info).context("invalid INFO")?;
        ensure!(info["tls_required"] != true, "the server requires TLS, which is not supported");
        client.max_payload = info["max_payload"].as_u64().unwrap_or(0) as usize;
        // With headers, the server can report that a request has no responders.
        let headers = info["headers"] == true;
        let options = serde_json::json!({
            "verbose": false, "pedantic": false, "protocol": 1, "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"), "headers": headers, "no_responders": headers,
        });
        client.send(format!("CONNECT {options}\r\n").as_bytes())?;
        client.flush()?;
        Ok(client)
    }

    /// Subscribes. With a `queue`, joins the group of that name: each message goes to one member.
    /// Returns the ID of the subscription.
    ///
    /// # Errors
    /// `subject` or `queue` is invalid, or the connection is lost.
    pub fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> anyhow::Result<String> {
        check_pattern(subject)?;
        queue.map_or(Ok(()), |queue| check_word("the queue", queue))?;
        self.last_sid += 1;
        let sid = self.last_sid.to_string();
        let queue = queue.map(|queue| format!("{queue} ")).unwrap_or_default();
        self.send(format!("SUB {subject} {queue}{sid}\r\n").as_bytes())?;
        Ok(sid)
    }

    /// Ends a subscription at once, or after `max` messages, counted from its beginning. Messages
    /// that the server has already sent still arrive.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn unsubscribe(&mut self, sid: &str, max: Option<u64>) -> anyhow::Result<()> {
        let max = max.map(|max| format!(" {max}")).unwrap_or_default();
        self.send(format!("UNSUB {sid}{max}\r\n").as_bytes())
    }

    /// Publishes a message.
    ///
    /// # Errors
    /// `subject` or `reply` is invalid, the payload is too large, or the connection is lost.
    pub fn publish(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        payload: &[u8],
    ) -> anyhow::Result<()> {
        check_subject(subject)?;
        reply.map_or(Ok(()), check_subject)?;
        let (size, max) = (payload.len(), self.max_payload);
        ensure!(size <= max, "the message has {size} bytes; the server accepts {max}");
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let line = format!("PUB {subject} {reply}{size}\r\n");
        self.send(&[line.as_bytes(), payload, b"\r\n"].concat())
    }

    /// Publishes a request on `subject`, and waits for the first reply.
    ///
    /// # Errors
    /// The server reports that nobody has subscribed to `subject`. No reply has arrived before the
    /// deadline (an [`io::Error`] of kind `TimedOut`). Or as for `publish`.
    pub fn request(
        &mut self,
        subject: &str,
        payload: &[u8],
        deadline: Instant,
    ) -> anyhow::Result<Vec<u8>> {
        // A subject for this reply alone. It is random, so that nobody else uses it by chance.
        let random = || RandomState::new().hash_one(0);
        let inbox = format!("_INBOX.{:016x}{:016x}", random(), random());
        let sid = self.subscribe(&inbox, None)?;
        self.unsubscribe(&sid, Some(1))?;
        self.publish(subject, Some(&inbox), payload)?;
        loop {
            if let Event::Message(message) = self.next(deadline)? {
                ensure!(message.status != "NATS/1.0 503", "no responders on {subject}");
                if message.sid == sid {
                    return Ok(message.payload);
                }
            }
        }
    }

    /// Waits until the server has handled everything that was sent before. Messages that arrive in
    /// the meantime are not lost: [`next`](Self::next) returns them.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.ping()?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.read_event(deadline)? {
                Event::Pong => return Ok(()),
                Event::Message(message) => self.received.push_back(message),
                Event::Handled => {}
            }
        }
    }

    /// Sends a PING. The server answers after it has handled everything that was sent before.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn ping(&mut self) -> anyhow::Result<()> {
        self.send(b"PING\r\n")
    }

    /// Returns the next event, or waits for it until the deadline.
    ///
    /// # Errors
    /// If the connection is lost, an [`io::Error`]; its kind is `TimedOut` after the
    /// deadline. Any other error was reported by the server.
    pub fn next(&mut self, deadline: Instant) -> anyhow::Result<Event> {
        match self.received.pop_front() {
            Some(message) => Ok(Event::Message(message)),
            None => self.read_event(deadline),
        }
    }

    /// Returns whether the client holds input that it has already read from the socket. poll(2)
    /// does not report such input.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        !self.received.is_empty() || !self.input.buffer().is_empty()
    }

    fn read_event(&mut self, deadline: Instant) -> anyhow::Result<Event> {
        self.input.get_mut().set_deadline(deadline);
        let line = read_line(&mut self.input, MAX_LINE)?.ok_or_else(|| {
            io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")
        })?;
        match parse(&line) {
            Ok(Op::Msg { subject, sid, reply, header_size, size }) => {
                let content = read_payload(&mut self.input, size, MAX_PAYLOAD)?;
                Ok(Event::Message(Message::new(subject, sid, reply, header_size, content)))
            }
            Ok(Op::Pong) => Ok(Event::Pong),
            Ok(Op::Ping) => self.send(b"PONG\r\n").map(|()| Event::Handled),
            // A cluster sends INFO whenever its members change.
            Ok(Op::Ok | Op::Info(_)) => Ok(Event::Handled),
            // The server closes the connection because we did not answer its PINGs in time.
            Ok(Op::Err("Stale Connection")) => {
                Err(io::Error::new(ErrorKind::ConnectionAborted, "stale connection").into())
            }
            Ok(Op::Err(reason)) => bail!("the server reports {:?}", printable(reason)),
            _ => bail!("the server sent an invalid line {line:?}"),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        self.input.get_mut().set_deadline(deadline);
        let Err(error) = self.input.get_mut().write_all(bytes) else { return Ok(()) };
        // The server has closed the connection. It may have sent the reason.
        loop {
            match self.read_event(deadline) {
                Ok(_) => {}
                Err(reason) if !reason.is::<io::Error>() => return Err(reason),
                Err(_) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
