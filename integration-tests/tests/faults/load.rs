//! The clients of a sweep: they make a server use each of its system calls, and report what happened
//! to each of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

/// No answer for this long counts as a hang. Far longer than any pause of a server, because strace
/// and a busy machine slow everything down.
const HANG: Duration = Duration::from_secs(15);

/// What a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was sent came back, in order.
    Complete,
    /// The server closed the connection. What came back before was right.
    Lost,
}

/// A client that checks every byte.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    is_chat: bool,
    /// Its name in the room.
    name: String,
}

impl Peer {
    pub fn connect(address: SocketAddr, is_chat: bool) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HANG))?;
        stream.set_write_timeout(Some(HANG))?;
        Ok(Self { stream, is_chat, name: String::new() })
    }

    /// A client whose receive buffer is so small that the server's writes are short.
    pub fn connect_narrow(address: SocketAddr, is_chat: bool) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect(&address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(HANG))?;
        stream.set_write_timeout(Some(HANG))?;
        Ok(Self { stream, is_chat, name: String::new() })
    }

    /// One request and its reply: an echo, or the answer to `/who`.
    ///
    /// # Errors
    /// A hang or a wrong byte.
    pub fn exchange(&mut self, text: &str) -> Result<Outcome> {
        let request = if self.is_chat { "/who\n".to_owned() } else { format!("{text}\n") };
        if self.send(request.as_bytes())? == Outcome::Lost {
            return Ok(Outcome::Lost);
        }
        loop {
            let Some(line) = self.line()? else { return Ok(Outcome::Lost) };
            if !self.is_chat {
                ensure!(line == request, "sent {request:?}, received {line:?}");
                return Ok(Outcome::Complete);
            }
            if let Some((name, _)) =
                line.strip_prefix("* you are ").and_then(|it| it.split_once(';'))
            {
                name.clone_into(&mut self.name);
            } else if line.starts_with("* here: ") {
                return Ok(Outcome::Complete);
            }
        }
    }

    /// Sends much before it reads anything, so that output is pending in the server; then
    /// half-closes and reads to the end.
    pub fn late_reader(mut self, count: usize) -> Result<Outcome> {
        let bytes: Vec<u8> = (0..count).map(|index| (index % 251) as u8).collect();
        let mut writer = self.stream.try_clone()?;
        let sender = bytes.clone();
        let sent = std::thread::spawn(move || {
            let result = writer.write_all(&sender);
            let _ = writer.shutdown(Shutdown::Write);
            result
        });
        std::thread::sleep(Duration::from_millis(20)); // lets buffers fill up; nothing depends on it
        let mut echo = Vec::new();
        let end = self.stream.read_to_end(&mut echo);
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = sent.join();
        ensure!(bytes.starts_with(&echo), "the echo differs from what was sent");
        match end {
            Ok(_) if echo.len() == count => Ok(Outcome::Complete),
            Ok(_) => Ok(Outcome::Lost),
            Err(error) => lost_or(error),
        }
    }

    /// Sends lines to the room.
    pub fn lines(&mut self, count: usize) -> Result<Outcome> {
        for number in 0..count {
            let line = format!("line {number} {}\n", "x".repeat(900));
            if self.send(line.as_bytes())? == Outcome::Lost {
                return Ok(Outcome::Lost);
            }
        }
        Ok(Outcome::Complete)
    }

    /// Reads the room's lines until the last of `count` from `speaker` has arrived.
    pub fn receive(&mut self, speaker: &str, count: usize) -> Result<Outcome> {
        let left = format!("* {speaker} left\n");
        let mut next = 0;
        while next < count {
            let Some(line) = self.line()? else { return Ok(Outcome::Lost) };
            if let Some((_, text)) = line.split_once(": line ") {
                let number: usize = text.split(' ').next().unwrap_or_default().parse()?;
                ensure!(number == next, "line {number} came instead of line {next}");
                next += 1;
            } else if line == left {
                return Ok(Outcome::Lost); // the speaker has lost its connection
            }
        }
        Ok(Outcome::Complete)
    }

    /// Resets the connection.
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Half-closes, and reads until the server closes too.
    pub fn half_close(mut self) -> Result<Outcome> {
        let _ = self.stream.shutdown(Shutdown::Write);
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => Ok(Outcome::Complete),
            Err(error) => lost_or(error),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Outcome> {
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(Outcome::Complete),
            Err(error) => lost_or(error),
        }
    }

    fn line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => line.push(byte[0]),
                Err(error) => {
                    lost_or(error)?;
                    return Ok(None);
                }
            }
            if byte == *b"\n" {
                return Ok(Some(String::from_utf8(line)?));
            }
        }
    }
}

fn lost_or(error: std::io::Error) -> Result<Outcome> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => bail!("no answer for {} s", HANG.as_secs()),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected => {
            Ok(Outcome::Lost)
        }
        _ => Err(error.into()),
    }
}

/// Runs the clients one after the other, and returns how many of them lost their connection.
pub fn run(address: SocketAddr, is_chat: bool) -> Result<usize> {
    let outcomes = [
        talker(address, is_chat)?,
        resetter(address, is_chat)?,
        if is_chat { late_listener(address)? } else { late_reader(address)? },
    ];
    drop(Peer::connect(address, is_chat)?); // a client that connects and disconnects
    Ok(outcomes.iter().filter(|&&outcome| outcome == Outcome::Lost).count())
}

fn talker(address: SocketAddr, is_chat: bool) -> Result<Outcome> {
    let mut peer = Peer::connect(address, is_chat)?;
    for text in ["one", "two", "three"] {
        if peer.exchange(text)? == Outcome::Lost {
            return Ok(Outcome::Lost);
        }
    }
    peer.half_close()
}

fn resetter(address: SocketAddr, is_chat: bool) -> Result<Outcome> {
    let mut peer = Peer::connect(address, is_chat)?;
    let outcome = peer.exchange("then a reset")?;
    peer.reset();
    Ok(outcome)
}

fn late_reader(address: SocketAddr) -> Result<Outcome> {
    Peer::connect_narrow(address, false)?.late_reader(150_000)
}

/// A guest with a small receive buffer, for whom output is pending while another one speaks. They
/// count as one client: if the speaker loses its connection, its lines are missing.
fn late_listener(address: SocketAddr) -> Result<Outcome> {
    const LINES: usize = 60;
    let mut listener = Peer::connect_narrow(address, true)?;
    if listener.exchange("")? == Outcome::Lost {
        return Ok(Outcome::Lost);
    }
    let mut speaker = Peer::connect(address, true)?;
    if speaker.exchange("")? == Outcome::Lost || speaker.lines(LINES)? == Outcome::Lost {
        return Ok(Outcome::Lost);
    }
    if listener.receive(&speaker.name, LINES)? == Outcome::Lost {
        return Ok(Outcome::Lost);
    }
    speaker.half_close()
}
