//! Clients that send and receive at the same time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::client::is_reset;
use crate::conversation::event;
use crate::pattern::Pattern;
use crate::probe::Responses;
use crate::wait::{seconds, timeout};
use crate::{Client, Server};

/// The largest chunk that a transfer sends or receives at once.
const CHUNK: usize = 64 * 1024;
/// A slow reader receives this much at once, after a pause.
const SLOW_CHUNK: usize = 512;
const SLOW_PAUSE: Duration = Duration::from_micros(100);
/// If a socket takes no data for this long, it takes none until something else happens.
///
/// If that is wrong, because the machine stalled for as long, a case tests less than it could.
const BLOCKED: Duration = Duration::from_millis(300);
/// A server answers requests more slowly than it echoes bytes, so a transfer has fewer of them.
const REQUESTS: u64 = 2000;

/// A number of bytes sent on one connection, and the responses to them.
///
/// With an echo server, the bytes of a [`Pattern`] come back. With other servers, the bytes are
/// requests, and progress is counted in bytes of requests to which the response is complete.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
pub struct Transfer {
    stream: TcpStream,
    content: Content,
    random: fastrand::Rng,
    total: u64,
    sent: u64,
    answered: u64,
    window: u64,
    largest_chunk: usize,
    slow_reader: bool,
    half_close: bool,
    /// The server may close the connection after the last response.
    may_end: bool,
    fin_after_responses: bool,
    ended: bool,
}

#[derive(Debug)]
enum Content {
    Pattern(Pattern),
    Requests {
        request: Vec<u8>,
        /// The request over and over, for one chunk from any offset in a request.
        repeated: Vec<u8>,
        responses: Responses,
    },
}

impl Transfer {
    /// Connects, to send `total` bytes in chunks of random sizes as fast as the server takes them.
    /// `seed` determines the bytes and the sizes.
    ///
    /// With a server that is no echo server, it is a number of requests instead.
    pub fn connect(server: &Server, seed: u64, total: u64) -> Result<Self> {
        Self::new(Client::connect(server)?, seed, total)
    }

    /// The same on an existing connection, on which nothing was sent yet.
    pub fn new(client: Client, seed: u64, total: u64) -> Result<Self> {
        let probe = client.probe();
        let may_end = !probe.persistent;
        let fin_after_responses = probe.is_http();
        let (content, total) = if probe.is_echo() {
            (Content::Pattern(Pattern::new(seed)), total)
        } else {
            let request = probe.request(seed, 0);
            let length = request.len() as u64;
            let count = probe.requests((total / length).min(REQUESTS));
            let repeated = request.repeat(CHUNK / request.len() + 2);
            let responses = Responses::new(probe);
            (Content::Requests { request, repeated, responses }, count * length)
        };
        let stream = client.into_stream();
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            content,
            random: fastrand::Rng::with_seed(seed),
            total,
            sent: 0,
            answered: 0,
            window: u64::MAX,
            largest_chunk: CHUNK,
            slow_reader: false,
            half_close: false,
            may_end,
            fin_after_responses,
            ended: false,
        })
    }

    /// Limits the bytes in flight.
    #[must_use]
    pub fn window(self, window: u64) -> Self {
        Self { window, ..self }
    }

    /// Limits the size of a chunk.
    #[must_use]
    pub fn chunks(self, largest_chunk: usize) -> Self {
        Self { largest_chunk: largest_chunk.clamp(1, CHUNK), ..self }
    }

    /// Receives a little at a time, and slowly, so that the server has pending output.
    #[must_use]
    pub fn slow_reader(self) -> Self {
        Self { slow_reader: true, ..self }
    }

    /// Half-closes after the last byte. The server then has to close the connection.
    ///
    /// With HTTP, the client half-closes after the last response: when a client has half-closed,
    /// servers do not have to answer requests that they have not read yet.
    #[must_use]
    pub fn then_half_close(self) -> Self {
        Self { half_close: true, ..self }
    }

    /// Adds bytes, or as many requests as that, on the same connection.
    pub fn extend(&mut self, more: u64) {
        self.total += match &self.content {
            Content::Pattern(_) => more,
            Content::Requests { request, .. } => more.next_multiple_of(request.len() as u64),
        };
    }

    /// The total number of bytes to send.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many of the bytes sent were echoed or answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether everything was echoed or answered, and the connection has ended if it has to.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.answered >= self.total && (self.ended || !self.half_close)
    }

    /// Whether the server has closed the connection.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sends without receiving, until the socket takes no more. Returns how many bytes it took.
    ///
    /// Fails if the socket takes everything: then the server keeps it all in memory.
    pub fn send_until_blocked(&mut self) -> Result<u64> {
        let before = self.sent;
        while !self.send_portion(u64::MAX)? {}
        Ok(self.sent - before)
    }

    /// Sends up to about `portion` bytes without receiving. Returns whether the socket takes no
    /// more now, or the server has closed the connection.
    pub fn send_portion(&mut self, portion: u64) -> Result<bool> {
        let goal = self.sent.saturating_add(portion);
        loop {
            if let Err(error) = self.send_some(goal) {
                let source = error.downcast_ref::<std::io::Error>();
                if self.may_end && source.is_some_and(is_reset) {
                    self.ended = true;
                    return Ok(true);
                }
                return Err(error);
            }
            ensure!(
                self.sent < self.total,
                "the server took all {} bytes from a client that does not read",
                self.total
            );
            if self.sent >= goal {
                return Ok(false);
            }
            let mut room = [PollFd::new(&self.stream, PollFlags::OUT)];
            if poll(&mut room, Some(&Timespec::try_from(BLOCKED)?))? == 0 {
                event(&self.stream, "the socket takes no more data");
                return Ok(true);
            }
        }
    }

    /// Sends nothing more than the rest of the request that was sent last.
    pub fn stop_sending(&mut self) {
        self.total = match &self.content {
            Content::Pattern(_) => self.sent,
            Content::Requests { request, .. } => self.sent.next_multiple_of(request.len() as u64),
        };
    }

    /// Sends nothing more than was sent already, and half-closes.
    pub fn half_close_here(&mut self) -> Result<()> {
        if let Content::Requests { request, .. } = &self.content {
            // The last request may be incomplete. There will be no response to it.
            self.total = self.sent - self.sent % request.len() as u64;
        } else {
            self.total = self.sent;
        }
        self.half_close = true;
        self.finish_sending()
    }

    fn interest(&self) -> PollFlags {
        let in_flight = self.sent - self.answered;
        let smallest = match &self.content {
            Content::Pattern(_) => 0,
            Content::Requests { request, .. } => request.len() as u64,
        };
        if self.sent < self.total && in_flight < self.window.max(smallest) {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    fn send_some(&mut self, goal: u64) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        while self.sent < goal && self.interest().contains(PollFlags::OUT) {
            let smallest = match &self.content {
                Content::Pattern(_) => 0,
                Content::Requests { request, .. } => request.len() as u64,
            };
            let allowed = self.window.max(smallest) - (self.sent - self.answered);
            let size = self.random.u64(1..=self.largest_chunk as u64);
            let size = size.min(self.total - self.sent).min(allowed);
            let chunk = &mut chunk[..size as usize];
            match &self.content {
                Content::Pattern(pattern) => pattern.fill(self.sent, chunk),
                Content::Requests { request, repeated, .. } => {
                    let offset = (self.sent % request.len() as u64) as usize;
                    chunk.copy_from_slice(&repeated[offset..offset + chunk.len()]);
                }
            }
            match self.stream.write(chunk) {
                Ok(count) => {
                    self.sent += count as u64;
                    event(&self.stream, &format!("-> {count} bytes, {} in all", self.sent));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    let progress = format!("sent {} of {} bytes", self.sent, self.total);
                    return Err(anyhow!(error).context(progress));
                }
            }
        }
        Ok(())
    }

    fn finish_sending(&mut self) -> Result<()> {
        event(&self.stream, "sent FIN");
        self.stream.shutdown(Shutdown::Write).context("cannot half-close")
    }

    fn receive_some(&mut self) -> Result<()> {
        let mut chunk = vec![0; if self.slow_reader { SLOW_CHUNK } else { CHUNK }];
        loop {
            if self.slow_reader {
                thread::sleep(SLOW_PAUSE);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    event(&self.stream, "received EOF");
                    self.ended = true;
                    self.on_received(&[])?;
                    let expected = self.half_close || self.may_end;
                    ensure!(
                        self.answered >= self.total && expected,
                        "the connection ended: {}",
                        self.progress()
                    );
                    return Ok(());
                }
                Ok(count) => {
                    event(&self.stream, &format!("<- {count} bytes"));
                    self.on_received(&chunk[..count])?;
                    // Leave the loop although there may be more: other transfers need their turn.
                    if count < chunk.len() || self.slow_reader {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(anyhow!(error).context(self.progress())),
            }
        }
    }

    fn on_received(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.content {
            Content::Pattern(pattern) => {
                pattern.check(self.answered, bytes)?;
                self.answered += bytes.len() as u64;
            }
            Content::Requests { request, responses, .. } => {
                responses.push(bytes);
                while responses.next(self.ended)? {
                    self.answered += request.len() as u64;
                }
            }
        }
        // A server may take what comes before FIN for a request, although it is incomplete.
        let sent = match &self.content {
            Content::Pattern(_) => self.sent,
            Content::Requests { request, .. } => self.sent.next_multiple_of(request.len() as u64),
        };
        ensure!(self.answered <= sent, "the server sent more than it has to");
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let (sent, answered) = (self.sent, self.answered);
        self.receive_some()?;
        self.send_some(u64::MAX)?;
        // With HTTP, all responses have to be there first.
        let (before, now) =
            if self.fin_after_responses { (answered, self.answered) } else { (sent, self.sent) };
        if before < self.total && now >= self.total && self.half_close && !self.ended {
            self.finish_sending()?;
        }
        Ok(())
    }

    fn progress(&self) -> String {
        match &self.content {
            Content::Pattern(_) => format!("{} of {} bytes came back", self.answered, self.total),
            Content::Requests { request, .. } => {
                let length = request.len() as u64;
                let (answered, total) = (self.answered / length, self.total / length);
                format!("{answered} of {total} responses arrived")
            }
        }
    }
}

/// Runs all transfers at the same time until each is done.
pub fn run(transfers: &mut [Transfer]) -> Result<()> {
    run_until(transfers, |transfers| transfers.iter().all(Transfer::is_done))
}

/// Runs all transfers at the same time until `enough` returns true.
///
/// Fails if no transfer makes progress for [`timeout`].
pub fn run_until(transfers: &mut [Transfer], enough: impl Fn(&[Transfer]) -> bool) -> Result<()> {
    while !enough(transfers) {
        let pending: Vec<_> = (0..transfers.len()).filter(|&i| !transfers[i].is_done()).collect();
        let Some(&first) = pending.first() else { bail!("all transfers are done too early") };
        let mut sockets: Vec<_> = pending
            .iter()
            .map(|&i| {
                PollFd::from_borrowed_fd(transfers[i].stream.as_fd(), transfers[i].interest())
            })
            .collect();
        let ready = poll(&mut sockets, Some(&Timespec::try_from(timeout())?))?;
        ensure!(
            ready > 0,
            "no progress for {}: {}",
            seconds(timeout()),
            transfers[first].progress()
        );
        let ready: Vec<_> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
        for (&index, _) in pending.iter().zip(ready).filter(|&(_, ready)| ready) {
            transfers[index].step()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TOTAL: u64 = 1 << 20;

    /// A transfer with a server that does this with its only connection.
    fn with(target: fn(TcpStream) -> std::io::Result<()>) -> Result<Transfer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || target(listener.accept()?.0));
        Transfer::new(Client::connect_to(address)?, 1, TOTAL)
    }

    fn result(target: fn(TcpStream) -> std::io::Result<()>) -> Result<()> {
        run(&mut [with(target)?.then_half_close()])
    }

    fn error(target: fn(TcpStream) -> std::io::Result<()>) -> String {
        result(target).map_or_else(|error| format!("{error:#}"), |()| "none".to_owned())
    }

    /// Echoes, but changes the chunk that contains byte 500,000.
    fn spoil(mut stream: TcpStream, spoil: impl Fn(&mut Vec<u8>, usize)) -> std::io::Result<()> {
        let mut buffer = vec![0; 4096];
        let mut at = 0;
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut chunk = buffer[..count].to_vec();
            if (at..at + count).contains(&500_000) {
                spoil(&mut chunk, 500_000 - at);
            }
            at += count;
            stream.write_all(&chunk)?;
        }
    }

    #[test]
    fn passes_an_echo() -> Result<()> {
        result(|stream| spoil(stream, |_, _| ()))
    }

    #[test]
    fn detects_bytes_lost_duplicated_or_changed() {
        let wrong = |error: String| error.contains("that came back differs");
        assert!(wrong(error(|stream| spoil(stream, Vec::truncate))));
        assert!(wrong(error(|stream| spoil(stream, |chunk, at| chunk.insert(at, chunk[at])))));
        assert!(wrong(error(|stream| spoil(stream, |chunk, at| chunk[at] ^= 1))));
    }

    #[test]
    fn detects_an_early_end() {
        let early = error(|mut stream| {
            let mut buffer = vec![0; 1000];
            stream.read_exact(&mut buffer)?;
            stream.write_all(&buffer)?;
            stream.shutdown(Shutdown::Write)?;
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        });
        assert_eq!(early, format!("the connection ended: 1000 of {TOTAL} bytes came back"));
    }

    #[test]
    fn detects_a_server_that_takes_everything_from_a_client_that_does_not_read() -> Result<()> {
        let mut greedy =
            with(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))?;
        let error = greedy.send_until_blocked().map_err(|error| error.to_string());
        let expected =
            format!("the server took all {TOTAL} bytes from a client that does not read");
        assert_eq!(error, Err(expected));
        Ok(())
    }
}
