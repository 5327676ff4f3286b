//! The lines of the protocol.

use std::io::{BufRead, Read};

use anyhow::{Context, bail, ensure};

/// The most bytes that the arguments of a line may have: the default of NATS.
const MAX_ARGUMENTS: usize = 4096;
/// The longest line of a client in bytes: a name such as `UNSUB`, and the arguments.
pub const MAX_LINE: usize = MAX_ARGUMENTS + 16;
/// The largest payload in bytes: the default of NATS.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// A line of the protocol. A client sends `CONNECT`, `PUB`, `SUB`, `UNSUB`; a server sends `INFO`,
/// `MSG`, `HMSG`, `+OK`, `-ERR`; both send `PING` and `PONG`.
///
/// `PUB`, `MSG` and `HMSG` are followed by a payload of `size` bytes and CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "these are the terms of the protocol")]
pub enum Op<'a> {
    /// What the server is and can do, in JSON.
    Info(&'a str),
    /// Options of the client, in JSON.
    Connect(&'a str),
    Pub {
        subject: &'a str,
        reply: Option<&'a str>,
        size: usize,
    },
    Sub {
        subject: &'a str,
        queue: Option<&'a str>,
        sid: &'a str,
    },
    /// Ends a subscription, at once or after `max` messages in all.
    Unsub {
        sid: &'a str,
        max: Option<u64>,
    },
    /// A message. The first `header_size` bytes of the payload of an `HMSG` are header fields.
    Msg {
        subject: &'a str,
        sid: &'a str,
        reply: Option<&'a str>,
        header_size: usize,
        size: usize,
    },
    Ping,
    Pong,
    Ok,
    Err(&'a str),
}

/// Returns the line with which the broker greets a client.
#[must_use]
pub fn greeting() -> String {
    let name = "\"server_id\":\"publish-subscribe\",\"version\":\"2.0.0\",\"proto\":1";
    format!("INFO {{{name},\"headers\":false,\"max_payload\":{MAX_PAYLOAD}}}\r\n")
}

/// Parses a line. Names may be in lower case: `sub` is the same as `SUB`.
///
/// # Errors
/// It is not a line of the protocol. The messages are those of nats-server where it sends one.
pub fn parse(line: &str) -> anyhow::Result<Op<'_>> {
    let line = line.trim_end_matches([' ', '\t']);
    let (name, arguments) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let name = name.to_ascii_uppercase();
    let is_short = arguments.len() <= MAX_ARGUMENTS || name == "INFO";
    ensure!(is_short, "maximum control line exceeded");
    let words: Vec<_> = arguments.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    Ok(match (name.as_str(), &words[..]) {
        ("INFO", _) => Op::Info(arguments),
        ("CONNECT", _) => Op::Connect(arguments.trim_start()),
        ("PUB", [subject, size]) => Op::Pub { subject, reply: None, size: parse_size(size)? },
        ("PUB", [subject, reply, size]) => {
            Op::Pub { subject, reply: Some(reply), size: parse_size(size)? }
        }
        ("SUB", [subject, sid]) => Op::Sub { subject, queue: None, sid },
        ("SUB", [subject, queue, sid]) => Op::Sub { subject, queue: Some(queue), sid },
        ("UNSUB", [sid]) => Op::Unsub { sid, max: None },
        // nats-server ignores a limit that is not a number.
        ("UNSUB", [sid, max]) => Op::Unsub { sid, max: max.parse().ok() },
        ("MSG", [subject, sid, reply @ .., size]) if reply.len() <= 1 => {
            let (reply, size) = (reply.first().copied(), parse_size(size)?);
            Op::Msg { subject, sid, reply, header_size: 0, size }
        }
        ("HMSG", [subject, sid, reply @ .., header_size, size]) if reply.len() <= 1 => {
            let (header_size, size) = (parse_size(header_size)?, parse_size(size)?);
            ensure!(header_size <= size, "Parser Error");
            Op::Msg { subject, sid, reply: reply.first().copied(), header_size, size }
        }
        ("-ERR", _) => Op::Err(arguments.trim_matches('\'')),
        // Like nats-server, ignore what follows these.
        (name, _) if name.starts_with("PING") => Op::Ping,
        (name, _) if name.starts_with("PONG") => Op::Pong,
        (name, _) if name.starts_with("+OK") => Op::Ok,
        ("PUB" | "SUB" | "UNSUB" | "MSG" | "HMSG", [_, ..]) => bail!("Parser Error"),
        _ => bail!("Unknown Protocol Operation"),
    })
}

/// A size consists of digits only: Rust's `parse` would take `+5` as well.
fn parse_size(word: &str) -> anyhow::Result<usize> {
    ensure!(word.bytes().all(|byte| byte.is_ascii_digit()), "Parser Error");
    word.parse().context("Parser Error")
}

/// Reads the payload that follows a `PUB`, `MSG` or `HMSG`. The peer chooses `size`, so memory is
/// allocated as the bytes arrive.
///
/// # Errors
/// An error of the input, of type [`std::io::Error`], or the payload has another size.
pub fn read_payload(
    input: &mut impl BufRead,
    size: usize,
    max_size: usize,
) -> anyhow::Result<Vec<u8>> {
    ensure!(size <= max_size, "Maximum Payload Violation");
    let mut payload = Vec::new();
    input.take(size as u64 + 2).read_to_end(&mut payload)?;
    ensure!(payload.len() == size + 2 && payload.ends_with(b"\r\n"), "Unknown Protocol Operation");
    payload.truncate(size);
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() -> anyhow::Result<()> {
        let size = 5;
        for (line, op) in [
            ("PING", Op::Ping),
            ("ping ", Op::Ping),
            ("PING x", Op::Ping),
            ("PUB a 5", Op::Pub { subject: "a", reply: None, size }),
            ("pub\ta  b   5", Op::Pub { subject: "a", reply: Some("b"), size }),
            ("SUB a 1", Op::Sub { subject: "a", queue: None, sid: "1" }),
            ("SUB a q 1", Op::Sub { subject: "a", queue: Some("q"), sid: "1" }),
            ("UNSUB 1", Op::Unsub { sid: "1", max: None }),
            ("UNSUB 1 5", Op::Unsub { sid: "1", max: Some(5) }),
            ("UNSUB 1 x", Op::Unsub { sid: "1", max: None }),
            ("MSG a 1 5", Op::Msg { subject: "a", sid: "1", reply: None, header_size: 0, size }),
            (
                "HMSG a 1 b 3 5",
                Op::Msg { subject: "a", sid: "1", reply: Some("b"), header_size: 3, size },
            ),
            ("CONNECT  {\"verbose\": false}", Op::Connect("{\"verbose\": false}")),
            ("-ERR 'Stale Connection'", Op::Err("Stale Connection")),
        ] {
            assert_eq!(parse(line)?, op, "{line}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_of_the_protocol_is_an_error() {
        let (unknown, parser) = ("Unknown Protocol Operation", "Parser Error");
        let long = format!("SUB {} 1", "x".repeat(5000));
        for (line, error) in [
            ("", unknown),
            (" ", unknown),
            (" PING", unknown),
            ("HPUB a 5 5", unknown),
            ("PUB", unknown),
            ("PUB a", parser),
            ("PUB a b", parser),
            ("PUB a -1", parser),
            ("PUB a +1", parser),
            ("PUB a 99999999999999999999", parser),
            ("PUB a b c 5", parser),
            ("SUB a", parser),
            ("HMSG a 1 6 5", parser),
            (&long, "maximum control line exceeded"),
        ] {
            assert_eq!(parse(line).expect_err("an error").to_string(), error, "{line}");
        }
    }
}
