//! A client of a NATS server: of `publish-subscribe`, or of a real one.

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use log::{info, warn};

use super::{Op, parse, read_payload};
use crate::{connect, read_line};

/// The longest line: an `INFO` names all servers of a cluster.
const LINE: usize = 32 << 10;
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may be silent: the real ones send a PING every two minutes.
const SILENCE: Duration = Duration::from_secs(300);

/// How often [`follow`] tries to find a server again, and how long it waits before each time.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// Subscribes and hands each message, its subject and its payload, to `take`. It goes on when the
/// server is lost, with the first of `addrs` that is there: what is published meanwhile is lost.
///
/// # Errors
/// Where there is no server at the start, or for ten seconds; what the server has to object; or the
/// first error of `take`'s.
pub fn follow(
    addrs: &str,
    subject: &str,
    queue: Option<&str>,
    mut take: impl FnMut(&str, &[u8]) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut client = Client::connect(addrs)?;
    loop {
        client.subscribe(subject, queue)?;
        client.flush()?;
        info!("subscribed to {subject}");
        let error = loop {
            match client.next() {
                Ok(Event::Message { subject, payload }) => take(&subject, &payload)?,
                Ok(Event::Pong) => {}
                Err(error) => break error,
            }
        };
        ensure!(error.is::<io::Error>(), error);
        warn!("{error}");
        let mut again = (0..ATTEMPTS).map(|_| {
            thread::sleep(PAUSE);
            Client::connect(addrs)
        });
        client = again.find_map(Result::ok).context("no server came back")?;
    }
}

/// Publishes one message; when it returns, the server has handed it on.
///
/// # Errors
/// Where there is no server, or what it has to object.
pub fn publish(addrs: &str, subject: &str, payload: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(addrs)?;
    client.publish(subject, payload.as_bytes())?;
    client.flush()
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    input: BufReader<TcpStream>,
}

/// What comes from a server, as far as it is for the user.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody has published it.
    Message {
        /// To which subject.
        subject: String,
        /// What.
        payload: Vec<u8>,
    },
    /// The server has done all that was sent before the PING.
    Pong,
}

impl Client {
    /// Connects to the first of the servers `HOST:PORT,HOST:PORT…` that is there.
    ///
    /// # Errors
    /// What was wrong with the last one.
    pub fn connect(addrs: &str) -> anyhow::Result<Self> {
        let mut failure = anyhow!("no address");
        for addr in addrs.split(',') {
            match Self::connect_to(addr).with_context(|| format!("cannot use {addr}")) {
                Ok(client) => return Ok(client),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn connect_to(addr: &str) -> anyhow::Result<Self> {
        let stream = connect(addr, Instant::now() + PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { input: BufReader::new(stream) };
        let greeting = read_line(&mut client.input, LINE)?.unwrap_or_default();
        if parse(&greeting) != Some(Op::Info) {
            bail!("this is no NATS server");
        }
        let who = "\"lang\":\"rust\",\"version\":\"0.1.0\"";
        let options = format!("CONNECT {{\"verbose\":false,\"pedantic\":false,{who}}}\r\n");
        client.send(options.as_bytes())?;
        client.flush()?;
        client.input.get_ref().set_read_timeout(Some(SILENCE))?;
        Ok(client)
    }

    /// Subscribes: as one of a group of which one gets each message, if `queue` is given.
    ///
    /// # Errors
    /// Where the connection is lost.
    pub fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> anyhow::Result<()> {
        self.send(format!("SUB {subject} {} 1\r\n", queue.unwrap_or_default()).as_bytes())
    }

    /// Publishes.
    ///
    /// # Errors
    /// Where the connection is lost.
    pub fn publish(&mut self, subject: &str, payload: &[u8]) -> anyhow::Result<()> {
        let head = format!("PUB {subject} {}\r\n", payload.len());
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat())
    }

    /// Waits until the server has done all that was asked; messages that come before are dropped.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.send(b"PING\r\n")?;
        while self.next()? != Event::Pong {}
        Ok(())
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// An [`io::Error`] where the connection is lost; else, what the server has to object.
    #[expect(clippy::should_implement_trait, reason = "it borrows what it needs to answer a PING")]
    pub fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            let line = read_line(&mut self.input, LINE)?.ok_or_else(|| {
                io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")
            })?;
            match parse(&line) {
                Some(Op::Msg { subject, size, .. }) => {
                    let payload = read_payload(&mut self.input, size)?;
                    return Ok(Event::Message { subject: subject.to_owned(), payload });
                }
                Some(Op::Pong) => return Ok(Event::Pong),
                Some(Op::Ping) => self.send(b"PONG\r\n")?,
                // A cluster says again and again who is in it.
                Some(Op::Ok | Op::Info) => {}
                Some(Op::Err(reason)) => bail!("the server says {reason:?}"),
                _ => bail!("the server says {line:?}, which is not NATS"),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.input.get_mut().write_all(bytes)?)
    }
}
