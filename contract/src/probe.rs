//! How to talk to a server: a request, and where the response to it ends.

use anyhow::{Context, Result, bail, ensure};
use regex::bytes::Regex;

use crate::pattern::Pattern;

/// A protocol, and what was learned about the server.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What to send, and what to expect.
    pub protocol: Protocol,
    /// What the server sends when a client connects, if anything: a regular expression.
    pub greeting: Option<Regex>,
    /// Whether the server keeps a connection open after a response.
    pub persistent: bool,
}

/// A request, and where the response to it ends.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// All bytes come back.
    Echo,
    /// Each line is answered with one line.
    Line,
    /// HTTP/1.1: `GET` of this path. Any status is a response; the body must be complete.
    Http(String),
    /// Redis: `PING` is answered with `+PONG`.
    Redis,
    /// Memcached: `version` is answered with `VERSION …`.
    Memcached,
    /// NATS: `PING` is answered with `PONG`.
    Nats,
    /// The chat room of this workspace. The cases of the chat servers speak it themselves.
    Chat,
    /// These bytes are answered with what the regular expression matches.
    Custom(Vec<u8>, Regex),
}

/// HTTP servers limit the number of requests per connection: 100 in Apache, 1000 in nginx.
const HTTP_REQUESTS: u64 = 90;

/// No header of a response is longer, and no server sends more header lines than [`HEADERS`].
const HEAD: usize = 64 * 1024;
const HEADERS: usize = 100;

impl Probe {
    /// This protocol, with the greeting that belongs to it.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        let greeting = match protocol {
            Protocol::Nats => Regex::new(r"^INFO [^\r\n]*\r\n").ok(),
            Protocol::Chat => Regex::new(r"^\* you are [^\n]*\n").ok(),
            _ => None,
        };
        Self { protocol, greeting, persistent: true }
    }

    /// The bytes of every request come back.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(Protocol::Echo)
    }

    /// Whether arbitrary bytes come back.
    #[must_use]
    pub fn is_echo(&self) -> bool {
        matches!(self.protocol, Protocol::Echo)
    }

    /// Whether the protocol is HTTP.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http(_))
    }

    /// A request. An echo request has `size` bytes, different ones for each `seed`.
    #[must_use]
    pub fn request(&self, seed: u64, size: usize) -> Vec<u8> {
        match &self.protocol {
            Protocol::Echo => Pattern::new(seed).first(size),
            Protocol::Line => format!("line {:09}\n", seed % 1_000_000_000).into_bytes(),
            Protocol::Http(path) => {
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
            }
            Protocol::Redis | Protocol::Nats => b"PING\r\n".to_vec(),
            Protocol::Memcached => b"version\r\n".to_vec(),
            Protocol::Chat => b"/who\n".to_vec(),
            Protocol::Custom(request, _) => request.clone(),
        }
    }

    /// A request after whose response the server closes the connection, if the protocol has one.
    #[must_use]
    pub fn last_request(&self) -> Option<Vec<u8>> {
        match &self.protocol {
            Protocol::Http(path) => {
                let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
                Some(format!("{head}Connection: close\r\n\r\n").into_bytes())
            }
            _ => None,
        }
    }

    /// How many of `wanted` requests a client may send on one connection.
    #[must_use]
    pub fn requests(&self, wanted: u64) -> u64 {
        match self.protocol {
            _ if !self.persistent => 1,
            Protocol::Http(_) => wanted.clamp(1, HTTP_REQUESTS),
            _ => wanted.max(1),
        }
    }

    /// The number of bytes of the response at the start of `received`, or `None` if it is not
    /// complete. At the end of the connection it cannot become longer.
    fn response_length(&self, received: &[u8], ended: bool) -> Result<Option<usize>> {
        let line = received.iter().position(|&byte| byte == b'\n').map(|end| end + 1);
        let expected: &[u8] = match &self.protocol {
            // The caller knows which bytes come back.
            Protocol::Echo => return Ok(Some(received.len()).filter(|&length| length > 0)),
            Protocol::Line => b"",
            Protocol::Redis => b"+PONG\r\n",
            Protocol::Nats => b"PONG\r\n",
            Protocol::Memcached => b"VERSION ",
            Protocol::Chat => b"* here: ",
            Protocol::Http(_) => return http_length(received, ended),
            Protocol::Custom(_, response) => {
                return Ok(response.find(received).map(|found| found.end()));
            }
        };
        let Some(end) = line else { return Ok(None) };
        let line = &received[..end];
        ensure!(
            line.starts_with(expected),
            "the response is {} instead of {}",
            quote(line),
            quote(expected)
        );
        Ok(Some(end))
    }

    /// Whether a line may come between two responses: the server sends it by itself.
    fn is_unsolicited(&self, line: &[u8]) -> bool {
        match self.protocol {
            Protocol::Nats => line == b"PING\r\n" || line.starts_with(b"INFO "),
            Protocol::Chat => !line.starts_with(b"* here: "),
            _ => false,
        }
    }
}

/// The length of an HTTP response: RFC 9112, section 6.3.
fn http_length(received: &[u8], ended: bool) -> Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(received).with_context(|| {
        format!("the response is not HTTP: {}", quote(&received[..received.len().min(200)]))
    })?;
    let httparse::Status::Complete(start) = parsed else {
        ensure!(received.len() < HEAD, "the header of the response has no end");
        return Ok(None);
    };
    let code = head.code.unwrap_or_default();
    if (100..200).contains(&code) {
        let rest = http_length(&received[start..], ended)?;
        return Ok(rest.map(|length| start + length));
    }
    if code == 204 || code == 304 {
        return Ok(Some(start));
    }
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let body = &received[start..];
    if header("Transfer-Encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
        let length = chunked_length(body)?;
        return Ok(length.map(|length| start + length));
    }
    if let Some(length) = header("Content-Length") {
        let length: usize = length.trim().parse().context("bad Content-Length")?;
        return Ok((body.len() >= length).then_some(start + length));
    }
    // Without either, the body ends with the connection.
    Ok(ended.then_some(received.len()))
}

fn chunked_length(body: &[u8]) -> Result<Option<usize>> {
    let mut at = 0;
    loop {
        let parsed = httparse::parse_chunk_size(&body[at..]);
        let parsed = parsed.map_err(|_| anyhow::anyhow!("bad chunk size"))?;
        let httparse::Status::Complete((start, size)) = parsed else { return Ok(None) };
        at += start + usize::try_from(size)? + 2;
        if at > body.len() {
            return Ok(None);
        }
        if size == 0 {
            // Trailer fields are rare; none of the servers here sends them.
            return Ok(Some(at));
        }
    }
}

/// The responses on one connection, as they arrive.
#[derive(Debug)]
pub struct Responses {
    probe: Probe,
    received: Vec<u8>,
    /// Bytes of `received` that were taken already. They are removed when more arrive, because to
    /// remove each response alone would move all others each time.
    taken: usize,
    greeted: bool,
}

impl Responses {
    /// Nothing has arrived yet.
    #[must_use]
    pub fn new(probe: &Probe) -> Self {
        let greeted = probe.greeting.is_none();
        Self { probe: probe.clone(), received: Vec::new(), taken: 0, greeted }
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.drain(..self.taken);
        self.taken = 0;
        self.received.extend_from_slice(bytes);
    }

    /// Removes the next response, if it is complete. `ended`: nothing more will arrive.
    pub fn next(&mut self, ended: bool) -> Result<bool> {
        if let Some(greeting) = self.probe.greeting.as_ref().filter(|_| !self.greeted) {
            let Some(found) = greeting.find(self.rest()) else {
                // A server that refuses a client may send an error instead of the greeting.
                ensure!(!ended, "the server sent {} as its greeting", quote(self.rest()));
                return Ok(false);
            };
            self.taken += found.end();
            self.greeted = true;
        }
        while let Some(end) = self.rest().iter().position(|&byte| byte == b'\n') {
            if !self.probe.is_unsolicited(&self.rest()[..=end]) {
                break;
            }
            self.taken += end + 1;
        }
        if self.rest().is_empty() {
            return Ok(false);
        }
        let length = self.probe.response_length(self.rest(), ended)?;
        self.taken += length.unwrap_or(0);
        Ok(length.is_some())
    }

    /// What has arrived and is no complete response.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.received[self.taken..]
    }
}

/// The bytes as a Rust byte string, at most 100 of them.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(100)].escape_ascii();
    let rest = bytes.len().saturating_sub(100);
    if rest == 0 { format!("\"{shown}\"") } else { format!("\"{shown}\"… and {rest} more bytes") }
}

/// Reads the escapes of a command line: `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH`.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            bytes.extend(character.to_string().as_bytes());
            continue;
        }
        bytes.push(match characters.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = characters.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16)
                    .with_context(|| format!("bad escape \\x{digits}"))?
            }
            other => bail!("bad escape \\{}", other.map_or(String::new(), String::from)),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(protocol: Protocol, bytes: &[u8]) -> Result<usize> {
        let mut responses = Responses::new(&Probe::new(protocol));
        let mut count = 0;
        // One byte at a time, as a network may deliver them.
        for byte in bytes {
            responses.push(&[*byte]);
            count += usize::from(responses.next(false)?);
        }
        ensure!(responses.rest().is_empty(), "left: {}", quote(responses.rest()));
        Ok(count)
    }

    #[test]
    fn finds_the_end_of_http_responses() -> Result<()> {
        let http = || Protocol::Http("/".to_owned());
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(lengths(http(), sized)?, 1);
        assert_eq!(lengths(http(), &sized.repeat(3))?, 3);
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(lengths(http(), &chunked.repeat(2))?, 2);
        assert_eq!(lengths(http(), b"HTTP/1.1 204 No Content\r\n\r\n")?, 1);
        let mut responses = Responses::new(&Probe::new(http()));
        responses.push(b"HTTP/1.0 200 OK\r\n\r\nuntil the end");
        assert!(!responses.next(false)?);
        assert!(responses.next(true)?);
        assert!(lengths(http(), b"+PONG\r\n").is_err());
        Ok(())
    }

    #[test]
    fn skips_what_the_server_sends_by_itself() -> Result<()> {
        assert_eq!(lengths(Protocol::Nats, b"INFO {}\r\nPONG\r\nPING\r\nPONG\r\n")?, 2);
        assert_eq!(lengths(Protocol::Redis, b"+PONG\r\n+PONG\r\n")?, 2);
        assert!(lengths(Protocol::Redis, b"-ERR max number of clients reached\r\n").is_err());
        Ok(())
    }

    #[test]
    fn reads_escapes() -> Result<()> {
        assert_eq!(unescape(r"a\r\n\x41\\")?, b"a\r\nA\\");
        assert!(unescape(r"\q").is_err());
        assert!(unescape(r"\x4").is_err() || unescape(r"\x4")? == [4]);
        Ok(())
    }
}
