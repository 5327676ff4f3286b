//! What the five modes share, and nothing that tells them apart.
//!
//! - [`serve`]: a thread for each connection, as in `blocking-echo`.
//! - [`resolve`], [`connect`], [`read_line`], [`ask`], [`Timed`]: what blocking conversations need.
//! - [`nats`]: the words of the NATS protocol, a broker's table, and a client.
//! - [`Process`]: the parts of a demonstration.

pub mod nats;
mod process;

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use common::{Accepted, accept};
use log::{info, warn};

pub use process::Process;

/// Connections at once, where nothing else bounds them. Whoever is too many waits to be accepted.
pub const CONNECTIONS: usize = 1000;
/// Until `accept` is tried again while descriptors are short, or `limit` connections are here.
const RETRY: Duration = Duration::from_millis(100);

/// The most that [`ask`] takes.
const ANSWER: u64 = 1 << 20;

/// Holds a conversation with each peer, in a thread of its own, with at most `limit` at once. When
/// it is over, what was sent last still gets to the peer, whatever that has sent meanwhile.
///
/// # Errors
/// What is wrong with the listening socket itself.
pub fn serve<C>(listener: &TcpListener, limit: usize, converse: C) -> anyhow::Result<()>
where
    C: Fn(&Arc<TcpStream>) -> anyhow::Result<()> + Send + Sync + 'static,
{
    let converse = Arc::new(converse);
    loop {
        // Each thread holds one: they count the connections, and a panic loses none.
        if Arc::strong_count(&converse) > limit {
            thread::sleep(RETRY);
            continue;
        }
        match accept(listener) {
            Accepted::Connection(stream, peer) => {
                let converse = Arc::clone(&converse);
                let thread = thread::Builder::new().spawn(move || {
                    let stream = Arc::new(stream);
                    match converse(&stream) {
                        Ok(()) => info!("{peer} left"),
                        Err(error) => info!("{peer} left: {error:#}"),
                    }
                    linger(&stream);
                });
                // The system's limit on threads: this connection is closed, the others go on.
                if let Err(error) = thread {
                    warn!("{peer} refused: {error}");
                }
            }
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(RETRY),
        }
    }
}

/// The first address behind `addr`, `HOST:PORT`.
///
/// # Errors
/// Where it cannot be parsed or resolved; the message names it.
pub fn resolve(addr: &str) -> anyhow::Result<SocketAddr> {
    let first = addr.to_socket_addrs().map(|mut addrs| addrs.next());
    let first = first.with_context(|| format!("cannot resolve {addr:?}"))?;
    first.with_context(|| format!("{addr:?} has no address"))
}

/// Connects to the first address behind `addr`, `HOST:PORT`, that takes the connection.
///
/// # Errors
/// What was wrong with the last one, `TimedOut` once the deadline has passed.
pub fn connect(addr: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for addr in addr.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero is no time-out, but an error of its own.
        match TcpStream::connect_timeout(&addr, left.max(Duration::from_nanos(1))) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Reads a line, without its `\n` or `\r\n`; `None` at the end of the input. An unended last
/// line counts; what is not UTF-8 comes as U+FFFD.
///
/// # Errors
/// The stream's own (of type [`io::Error`]), or a line that is longer than `limit` bytes.
pub fn read_line(input: &mut impl BufRead, limit: usize) -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    // One byte more than fits, to tell a line that is too long from one that just fits.
    if input.by_ref().take(limit as u64 + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    ensure!(line.len() <= limit, "a line is longer than {limit} bytes");
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some(String::from_utf8_lossy(line).into_owned()))
}

/// A stream that can be used until a deadline.
///
/// The time-outs of a socket are for one call each: a peer that sends a byte now and then would
/// keep its reader for ever.
#[derive(Debug)]
pub struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    /// `stream`, until `deadline`.
    #[must_use]
    pub fn new(stream: &'a TcpStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

/// What the kernel calls a time-out of a socket is `EAGAIN`.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends one line, and takes all that comes back until the connection ends.
///
/// # Errors
/// `TimedOut` where that takes longer than `patience`, else what was wrong with the connection.
pub fn ask(addr: &str, question: &str, patience: Duration) -> io::Result<String> {
    let deadline = Instant::now() + patience;
    let stream = connect(addr, deadline)?;
    let mut timed = Timed::new(&stream, deadline);
    timed.write_all(format!("{question}\n").as_bytes())?;
    io::read_to_string(timed.take(ANSWER))
}

/// Says goodbye to a peer that may still be sending: to close a socket with bytes left to read
/// is to reset the connection, and a reset takes our last words away from the peer.
fn linger(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    // Bounded both ways: a peer that sends on for ever is reset after all.
    let mut rest = Timed::new(stream, Instant::now() + Duration::from_secs(1)).take(1 << 20);
    let _ = io::copy(&mut rest, &mut io::sink());
}
