//! Clients of a chat server that send and receive at the same time, in one loop for all of them. So
//! every client reads, no matter how much the others send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::chat_client::short;
use crate::client::is_reset;
use crate::conversation;
use crate::wait::{seconds, timeout};
use crate::{ChatClient, Server};

/// The most that is received at once.
const CHUNK: usize = 64 * 1024;

/// A client with lines to send, and with the lines that it has received.
#[derive(Debug)]
pub struct ChatSession {
    stream: TcpStream,
    name: String,
    /// The lines to send, and how many bytes of them are sent.
    output: Vec<u8>,
    sent: usize,
    /// The largest part to send at once, and the generator of the sizes.
    parts: Option<(usize, fastrand::Rng)>,
    /// The start of a line whose end has not arrived.
    partial: Vec<u8>,
    received: Vec<String>,
    reads: bool,
    ended: bool,
}

impl ChatSession {
    /// Joins the room.
    pub fn join(server: &Server) -> Result<Self> {
        Self::new(ChatClient::join(server)?)
    }

    /// The same for a client that has joined already.
    pub fn new(client: ChatClient) -> Result<Self> {
        let name = client.name().to_owned();
        let stream = client.into_client().into_stream();
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            name,
            output: Vec::new(),
            sent: 0,
            parts: None,
            partial: Vec::new(),
            received: Vec::new(),
            reads: true,
            ended: false,
        })
    }

    /// Sends its lines in parts of random sizes up to `largest`, regardless of where lines end.
    #[must_use]
    pub fn in_parts(self, largest: usize, seed: u64) -> Self {
        Self { parts: Some((largest, fastrand::Rng::with_seed(seed))), ..self }
    }

    /// Does not read.
    #[must_use]
    pub fn without_reading(self) -> Self {
        Self { reads: false, ..self }
    }

    /// The name that the server has given it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a line to send.
    pub fn send_line(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
        self.output.push(b'\n');
    }

    /// Whether all lines are sent.
    #[must_use]
    pub fn has_sent_all(&self) -> bool {
        self.sent == self.output.len()
    }

    /// The lines received since it joined, or since [`ChatSession::clear_received`].
    #[must_use]
    pub fn received(&self) -> &[String] {
        &self.received
    }

    /// Removes the lines received.
    pub fn clear_received(&mut self) {
        self.received.clear();
    }

    /// Whether the server has closed the connection.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sends FIN. The client can still receive.
    pub fn half_close(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("cannot half-close")
    }

    /// Sends bytes at once. The socket must have space for them.
    pub fn send_now(&self, bytes: &[u8]) -> Result<()> {
        let count = (&self.stream).write(bytes)?;
        ensure!(count == bytes.len(), "the socket took {count} of {} bytes", bytes.len());
        Ok(())
    }

    /// Closes the connection with FIN, because it reads first what has arrived.
    ///
    /// If more arrives in between, the kernel sends RST instead. The server cannot rely on either.
    pub fn close(mut self) -> Result<()> {
        self.receive_some()
    }

    /// Closes the connection with RST.
    pub fn reset(self) -> Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.reads);
        interest.set(PollFlags::OUT, !self.has_sent_all());
        interest
    }

    fn step(&mut self) -> Result<()> {
        self.send_some()?;
        if self.reads { self.receive_some() } else { Ok(()) }
    }

    fn send_some(&mut self) -> Result<()> {
        while !self.has_sent_all() && !self.ended {
            let left = &self.output[self.sent..];
            let part = match &mut self.parts {
                Some((largest, random)) => random.usize(1..=*largest).min(left.len()),
                None => left.len(),
            };
            match self.stream.write(&left[..part]) {
                Ok(count) => {
                    conversation::sent(&self.stream, &left[..count]);
                    self.sent += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => self.on_error(error)?,
            }
        }
        if self.has_sent_all() {
            self.output.clear();
            self.sent = 0;
        }
        Ok(())
    }

    fn receive_some(&mut self) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        while !self.ended {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    conversation::received(&self.stream, &chunk[..count]);
                    for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
                        self.partial.extend_from_slice(piece);
                        if self.partial.last() == Some(&b'\n') {
                            self.partial.pop();
                            let line = String::from_utf8(std::mem::take(&mut self.partial));
                            self.received.push(line.context("received a line that is not UTF-8")?);
                        }
                    }
                    // Leave the loop although there may be more: other clients need their turn.
                    if count < chunk.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => self.on_error(error)?,
            }
        }
        Ok(())
    }

    fn on_error(&mut self, error: std::io::Error) -> Result<()> {
        if is_reset(&error) {
            self.ended = true;
            return Ok(());
        }
        Err(anyhow!(error).context(self.name.clone()))
    }
}

/// Lets all clients send and receive until `enough` returns true. `what` completes the sentence
/// "waited 20 s for …".
///
/// Fails if nothing is sent or received for [`timeout`], or if `enough` stays false for much longer.
pub fn run_until(
    sessions: &mut [ChatSession],
    what: &str,
    mut enough: impl FnMut(&[ChatSession]) -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !enough(sessions) {
        let connected: Vec<_> = (0..sessions.len()).filter(|&i| !sessions[i].ended).collect();
        let mut sockets: Vec<_> = connected
            .iter()
            .map(|&i| PollFd::from_borrowed_fd(sessions[i].stream.as_fd(), sessions[i].interest()))
            .collect();
        let ready = poll(&mut sockets, Some(&Timespec::try_from(timeout())?))?;
        if ready == 0 || start.elapsed() > 5 * timeout() {
            bail!("waited {} for {what}", seconds(start.elapsed()));
        }
        let ready: Vec<_> = sockets.iter().map(PollFd::revents).collect();
        for (&index, ready) in connected.iter().zip(ready) {
            let session = &mut sessions[index];
            if ready.intersects(PollFlags::ERR | PollFlags::HUP) && !session.reads {
                // A client that does not read still notices this.
                session.ended = true;
            } else if !ready.is_empty() {
                session.step()?;
            }
        }
    }
    Ok(())
}

/// Fails unless all clients are still connected.
pub fn expect_all_connected(sessions: &[ChatSession]) -> Result<()> {
    match sessions.iter().find(|session| session.ended) {
        None => Ok(()),
        Some(ended) => {
            let last = ended.received.last().map(|line| short(line)).unwrap_or_default();
            bail!("{} has lost its connection; it received last: {last:?}", ended.name)
        }
    }
}
