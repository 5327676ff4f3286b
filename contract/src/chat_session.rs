//! Guests of a chat room who talk and listen at the same time, in one loop for all of them: so
//! nobody who is to listen fails to, however much is said.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::chat_client::short;
use crate::wait::TIMEOUT;
use crate::{ChatClient, Server};

/// Received at once.
const CHUNK: usize = 64 * 1024;

/// A guest with lines to say, and with those that it has heard.
#[derive(Debug)]
pub struct ChatSession {
    stream: TcpStream,
    name: String,
    /// What is to be sent, and how much of it is.
    output: Vec<u8>,
    sent: usize,
    /// The largest part to send at once, and where their sizes come from.
    parts: Option<(usize, fastrand::Rng)>,
    /// A line of which the end has not come.
    partial: Vec<u8>,
    received: Vec<String>,
    without_reading: bool,
    ended: bool,
}

impl ChatSession {
    /// Arrives.
    pub fn join(server: &Server) -> Result<Self> {
        Self::new(ChatClient::join(server)?)
    }

    /// The same, for one who has arrived.
    pub fn new(guest: ChatClient) -> Result<Self> {
        let name = guest.name().to_owned();
        let stream = guest.into_client().into_stream();
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            name,
            output: Vec::new(),
            sent: 0,
            parts: None,
            partial: Vec::new(),
            received: Vec::new(),
            without_reading: false,
            ended: false,
        })
    }

    /// Sends its lines in parts of random sizes, up to `largest`, wherever they end.
    #[must_use]
    pub fn in_parts(self, largest: usize, seed: u64) -> Self {
        Self { parts: Some((largest, fastrand::Rng::with_seed(seed))), ..self }
    }

    /// Does not listen until [`Talker::listens`].
    #[must_use]
    pub fn without_reading(self) -> Self {
        Self { without_reading: true, ..self }
    }

    /// Listens again.
    pub fn resume_reading(&mut self) {
        self.without_reading = false;
    }

    /// The name that it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has one more line to say.
    pub fn send_line(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
        self.output.push(b'\n');
    }

    /// Whether all is said.
    #[must_use]
    pub fn has_sent_all(&self) -> bool {
        self.sent == self.output.len()
    }

    /// What it has heard since it came, or since [`Talker::forget`].
    #[must_use]
    pub fn received(&self) -> &[String] {
        &self.received
    }

    /// Forgets what it has heard.
    pub fn clear_received(&mut self) {
        self.received.clear();
    }

    /// Whether the server has ended its connection.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sends no more, and still receives.
    pub fn half_close(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("cannot half-close")
    }

    /// Sends bytes at once, which the socket has to have room for.
    pub fn send_now(&self, bytes: &[u8]) -> Result<()> {
        let count = (&self.stream).write(bytes)?;
        ensure!(count == bytes.len(), "the socket took {count} bytes of {}", bytes.len());
        Ok(())
    }

    /// Closes its end with a FIN, as what has come is read before.
    ///
    /// Where something comes in between, the kernel makes an RST of it: the server cannot rely on
    /// what a guest does, either.
    pub fn close(mut self) -> Result<()> {
        self.receive_some()
    }

    /// Ends the connection with an RST.
    pub fn reset(self) -> Result<()> {
        SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))?;
        Ok(())
    }

    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, !self.without_reading);
        interest.set(PollFlags::OUT, !self.has_sent_all());
        interest
    }

    fn step(&mut self) -> Result<()> {
        self.send_some()?;
        if self.without_reading { Ok(()) } else { self.receive_some() }
    }

    fn send_some(&mut self) -> Result<()> {
        while !self.has_sent_all() && !self.ended {
            let left = &self.output[self.sent..];
            let part = match &mut self.parts {
                Some((largest, random)) => random.usize(1..=*largest).min(left.len()),
                None => left.len(),
            };
            match self.stream.write(&left[..part]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => self.end_with(error)?,
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
                    for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
                        self.partial.extend_from_slice(piece);
                        if self.partial.last() == Some(&b'\n') {
                            self.partial.pop();
                            let line = String::from_utf8(std::mem::take(&mut self.partial));
                            let line = line.context("a line came that is not UTF-8")?;
                            self.received.push(line);
                        }
                    }
                    // One that always has more to hear would keep the others from their turn.
                    if count < chunk.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => self.end_with(error)?,
            }
        }
        Ok(())
    }

    fn end_with(&mut self, error: std::io::Error) -> Result<()> {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                self.ended = true;
                Ok(())
            }
            _ => Err(anyhow!(error).context(self.name.clone())),
        }
    }
}

/// Lets all talk and listen until `enough` of it has happened; `what` completes the sentence
/// "20 s went by without …".
///
/// Fails where for [`PATIENCE`] nobody says or hears anything, and where nothing but that happens
/// for much longer.
pub fn run_until(
    sessions: &mut [ChatSession],
    what: &str,
    mut enough: impl FnMut(&[ChatSession]) -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !enough(sessions) {
        let here: Vec<_> = (0..sessions.len()).filter(|&i| !sessions[i].ended).collect();
        let mut sockets: Vec<_> = here
            .iter()
            .map(|&i| PollFd::from_borrowed_fd(sessions[i].stream.as_fd(), sessions[i].interest()))
            .collect();
        let ready = poll(&mut sockets, Some(&Timespec::try_from(TIMEOUT)?))?;
        let late = ready == 0 || start.elapsed() > 5 * TIMEOUT;
        if late {
            bail!("{} s went by without {what}", start.elapsed().as_secs());
        }
        let ready: Vec<_> = sockets.iter().map(PollFd::revents).collect();
        for (&index, ready) in here.iter().zip(ready) {
            let session = &mut sessions[index];
            if ready.intersects(PollFlags::ERR | PollFlags::HUP) && session.without_reading {
                // It does not listen, but this it cannot miss.
                session.ended = true;
            } else if !ready.is_empty() {
                session.step()?;
            }
        }
    }
    Ok(())
}

/// Fails unless all are still connected.
pub fn expect_all_connected(sessions: &[ChatSession]) -> Result<()> {
    match sessions.iter().find(|session| session.ended) {
        None => Ok(()),
        Some(gone) => {
            let last = gone.received.last().map(|line| short(line)).unwrap_or_default();
            bail!("{} has lost its connection; it heard last: {last:?}", gone.name)
        }
    }
}
