//! Peers that send and receive at the same time, for transfers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pattern::Pattern;
use crate::wait::timeout;
use crate::{Client, Server};

/// Sent or received at once, at most.
const CHUNK: usize = 64 * 1024;
/// Received at once by one that sips, and the pause before each sip.
const SIP: usize = 512;
const SIP_PAUSE: Duration = Duration::from_micros(100);
/// A socket that takes nothing for so long will not do so before something else happens.
///
/// Where that is wrong, on a machine that stalls for as long, a test asks for less than it could.
const BLOCKED: Duration = Duration::from_millis(300);

/// A transfer: so many bytes of a pattern, out and back.
#[derive(Debug)]
pub struct Transfer {
    stream: TcpStream,
    pattern: Pattern,
    random: fastrand::Rng,
    total: u64,
    sent: u64,
    received: u64,
    window: u64,
    largest: usize,
    slow_reader: bool,
    half_close: bool,
    ended: bool,
}

impl Transfer {
    /// Connects, to send `total` bytes in chunks of random sizes, as fast as the server takes
    /// them. Bytes and sizes are those of `seed`.
    pub fn connect(server: &Server, seed: u64, total: u64) -> Result<Self> {
        Self::new(Client::connect(server)?, seed, total)
    }

    /// The same on a connection that there is already.
    pub fn new(client: Client, seed: u64, total: u64) -> Result<Self> {
        let stream = client.into_stream();
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            pattern: Pattern::new(seed),
            random: fastrand::Rng::with_seed(seed),
            total,
            sent: 0,
            received: 0,
            window: u64::MAX,
            largest: CHUNK,
            slow_reader: false,
            half_close: false,
            ended: false,
        })
    }

    /// Never more than this on the way.
    #[must_use]
    pub fn window(self, window: u64) -> Self {
        Self { window, ..self }
    }

    /// Chunks of at most this size.
    #[must_use]
    pub fn chunks(self, largest: usize) -> Self {
        Self { largest: largest.clamp(1, CHUNK), ..self }
    }

    /// Receives little at a time, and slowly: the server has to keep the rest for a while.
    #[must_use]
    pub fn slow_reader(self) -> Self {
        Self { slow_reader: true, ..self }
    }

    /// Half-closes after the last byte; then the server has to end the connection.
    #[must_use]
    pub fn then_half_close(self) -> Self {
        Self { half_close: true, ..self }
    }

    /// So many more bytes, on the same connection.
    pub fn extend(&mut self, more: u64) {
        self.total += more;
    }

    /// How many bytes have come back.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether all has come back, and the end after it where it was asked for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.received == self.total && (self.ended || !self.half_close)
    }

    /// Sends without receiving, until the socket takes nothing any more; how many bytes it took.
    ///
    /// Fails where it takes everything: then somebody keeps it all.
    pub fn send_until_blocked(&mut self) -> Result<u64> {
        let before = self.sent;
        loop {
            self.send_some()?;
            ensure!(
                self.sent < self.total,
                "the server took all {} bytes from a peer that reads nothing",
                self.total
            );
            let mut room = [PollFd::new(&self.stream, PollFlags::OUT)];
            if poll(&mut room, Some(&Timespec::try_from(BLOCKED)?))? == 0 {
                return Ok(self.sent - before);
            }
        }
    }

    /// Sends nothing more than has been sent already, and half-closes.
    pub fn half_close_here(&mut self) -> Result<()> {
        self.total = self.sent;
        self.half_close = true;
        self.finish_sending()
    }

    fn interest(&self) -> PollFlags {
        if self.sent < self.total && self.sent - self.received < self.window {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }

    fn send_some(&mut self) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        while self.interest().contains(PollFlags::OUT) {
            let room = (self.total - self.sent).min(self.window - (self.sent - self.received));
            let size = self.random.u64(1..=self.largest as u64).min(room);
            let chunk = &mut chunk[..size as usize];
            self.pattern.fill(self.sent, chunk);
            match self.stream.write(chunk) {
                Ok(count) => self.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    let progress = format!("{} of {} bytes went out", self.sent, self.total);
                    return Err(anyhow!(error).context(progress));
                }
            }
        }
        Ok(())
    }

    fn finish_sending(&mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("cannot half-close")
    }

    fn receive_some(&mut self) -> Result<()> {
        let mut chunk = vec![0; if self.slow_reader { SIP } else { CHUNK }];
        loop {
            if self.slow_reader {
                thread::sleep(SIP_PAUSE);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    ensure!(
                        self.received == self.total && self.half_close,
                        "the connection ended: {}",
                        self.progress()
                    );
                    self.ended = true;
                    return Ok(());
                }
                Ok(count) => {
                    self.pattern.check(self.received, &chunk[..count])?;
                    self.received += count as u64;
                    ensure!(self.received <= self.sent, "more came back than was sent");
                    // One that always has more to read would keep the others from their turn.
                    if count < chunk.len() || self.slow_reader {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(anyhow!(error).context(self.progress())),
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        self.receive_some()?;
        let unfinished = self.sent < self.total;
        self.send_some()?;
        if unfinished && self.sent == self.total && self.half_close {
            self.finish_sending()?;
        }
        Ok(())
    }

    fn progress(&self) -> String {
        format!("{} of {} bytes came back", self.received, self.total)
    }
}

/// Lets all transfers go on until each is done.
pub fn run(exchanges: &mut [Transfer]) -> Result<()> {
    run_until(exchanges, |exchanges| exchanges.iter().all(Transfer::is_done))
}

/// Lets all transfers go on until `enough` of them has happened.
///
/// Fails where for [`patience`] nothing comes or goes on any of them.
pub fn run_until(exchanges: &mut [Transfer], enough: impl Fn(&[Transfer]) -> bool) -> Result<()> {
    while !enough(exchanges) {
        let pending: Vec<_> = (0..exchanges.len()).filter(|&i| !exchanges[i].is_done()).collect();
        let Some(&first) = pending.first() else { bail!("all transfers are done too early") };
        let mut sockets: Vec<_> = pending
            .iter()
            .map(|&i| {
                PollFd::from_borrowed_fd(exchanges[i].stream.as_fd(), exchanges[i].interest())
            })
            .collect();
        let ready = poll(&mut sockets, Some(&Timespec::try_from(timeout())?))?;
        ensure!(
            ready > 0,
            "no echo within {} s: {}",
            timeout().as_secs(),
            exchanges[first].progress()
        );
        let ready: Vec<_> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
        for (&index, _) in pending.iter().zip(ready).filter(|&(_, ready)| ready) {
            exchanges[index].step()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TOTAL: u64 = 1 << 20;

    /// A transfer with a server that does this with its one connection.
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

    /// Echoes, but does something else to the chunk in which byte 500,000 is.
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
    fn sees_bytes_lost_doubled_or_changed() {
        let wrong = |error: String| error.contains("came back as another than was sent");
        assert!(wrong(error(|stream| spoil(stream, Vec::truncate))));
        assert!(wrong(error(|stream| spoil(stream, |chunk, at| chunk.insert(at, chunk[at])))));
        assert!(wrong(error(|stream| spoil(stream, |chunk, at| chunk[at] ^= 1))));
    }

    #[test]
    fn sees_an_early_end() {
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
    fn sees_who_takes_everything_from_a_peer_that_reads_nothing() -> Result<()> {
        let mut greedy =
            with(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))?;
        let error = greedy.send_until_blocked().map_err(|error| error.to_string());
        let expected = format!("the server took all {TOTAL} bytes from a peer that reads nothing");
        assert_eq!(error, Err(expected));
        Ok(())
    }
}
