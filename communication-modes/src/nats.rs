//! The NATS protocol: its words, a client, and the table of a broker; the broker itself is
//! `src/bin/publish-subscribe.rs`.
//!
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>

mod client;
mod subscriptions;

use std::io::{BufRead, Read};

use anyhow::ensure;

pub use client::{Client, Event, follow, publish};
pub use subscriptions::Subscriptions;

/// The longest line of a client, without the payload: NATS' default.
pub const MAX_LINE: usize = 4096;
/// The largest payload: NATS' default.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// A line of the protocol, from a client (`CONNECT`, `PUB`, `SUB`, `UNSUB`), from a server
/// (`INFO`, `MSG`, `+OK`, `-ERR`), or from either. After `PUB` and `MSG` comes a payload of `size`
/// bytes and its own line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocol's own words")]
pub enum Op<'a> {
    Info,
    /// Options, in JSON.
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
    /// Now, or once `max` messages have come.
    Unsub {
        sid: &'a str,
        max: Option<u64>,
    },
    Msg {
        subject: &'a str,
        sid: &'a str,
        reply: Option<&'a str>,
        size: usize,
    },
    Ping,
    Pong,
    Ok,
    Err(&'a str),
}

/// The line with which a server greets.
#[must_use]
pub fn greeting() -> String {
    let who = "\"server_id\":\"publish-subscribe\",\"version\":\"2.0.0\",\"proto\":1";
    format!("INFO {{{who},\"headers\":false,\"max_payload\":{MAX_PAYLOAD}}}\r\n")
}

/// `None` for what is no line of the protocol. The words are the same in any case.
#[must_use]
pub fn parse(line: &str) -> Option<Op<'_>> {
    let line = line.trim_end_matches([' ', '\t']);
    let (op, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let words: Vec<_> = rest.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    Some(match (op.to_ascii_uppercase().as_str(), &words[..]) {
        ("INFO", _) => Op::Info,
        ("CONNECT", _) => Op::Connect(rest),
        ("PUB", [subject, size]) => Op::Pub { subject, reply: None, size: size.parse().ok()? },
        ("PUB", [subject, reply, size]) => {
            Op::Pub { subject, reply: Some(reply), size: size.parse().ok()? }
        }
        ("SUB", [subject, sid]) => Op::Sub { subject, queue: None, sid },
        ("SUB", [subject, queue, sid]) => Op::Sub { subject, queue: Some(queue), sid },
        ("UNSUB", [sid]) => Op::Unsub { sid, max: None },
        ("UNSUB", [sid, max]) => Op::Unsub { sid, max: Some(max.parse().ok()?) },
        ("MSG", [subject, sid, size]) => {
            Op::Msg { subject, sid, reply: None, size: size.parse().ok()? }
        }
        ("MSG", [subject, sid, reply, size]) => {
            Op::Msg { subject, sid, reply: Some(reply), size: size.parse().ok()? }
        }
        ("PING", []) => Op::Ping,
        ("PONG", []) => Op::Pong,
        ("+OK", []) => Op::Ok,
        ("-ERR", _) => Op::Err(rest.trim_matches('\'')),
        _ => return None,
    })
}

/// Reads the payload that comes after `PUB` and `MSG`. Memory is taken for what has come, not for
/// what is promised.
///
/// # Errors
/// The stream's own (of type [`std::io::Error`]), or a payload of another size.
pub fn read_payload(input: &mut impl BufRead, size: usize) -> anyhow::Result<Vec<u8>> {
    ensure!(size <= MAX_PAYLOAD, "Maximum Payload Violation");
    let mut payload = Vec::new();
    input.take(size as u64 + 2).read_to_end(&mut payload)?;
    ensure!(payload.len() == size + 2 && payload.ends_with(b"\r\n"), "Unknown Protocol Operation");
    payload.truncate(size);
    Ok(payload)
}

/// Whether one can publish to it: tokens between dots, and no wildcards.
#[must_use]
pub fn is_subject(subject: &str) -> bool {
    subject.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
}

/// Whether one can subscribe to it: `*` stands for one token, `>` at the end for one or more.
#[must_use]
pub fn is_pattern(pattern: &str) -> bool {
    let pattern = pattern.strip_suffix(".>").unwrap_or(pattern);
    pattern == ">" || pattern.split('.').all(|token| !token.is_empty() && token != ">")
}

/// Whether a subscription to `pattern` gets what is published to `subject`.
pub(crate) fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            (wanted, Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The value of a switch among the options of `CONNECT`. It looks for the words and does not know
/// JSON: enough for options that real clients write themselves.
#[must_use]
pub fn switch(options: &str, name: &str) -> Option<bool> {
    let (_, rest) = options.split_once(&format!("\"{name}\""))?;
    let value = rest.trim_start().strip_prefix(':')?.trim_start();
    let is = |word| value.starts_with(word);
    if is("true") { Some(true) } else { is("false").then_some(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_match_token_by_token() {
        for (pattern, subject) in [
            ("a", "a"),
            ("a.b", "a.b"),
            ("*", "a"),
            ("a.*.c", "a.b.c"),
            (">", "a"),
            (">", "a.b"),
            ("a.>", "a.b"),
            ("a.>", "a.b.c"),
            ("*.>", "a.b"),
        ] {
            assert!(matches(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [
            ("a", "b"),
            ("a", "a.b"),
            ("a.b", "a"),
            ("*", "a.b"),
            ("a.>", "a"),
            ("a.*", "a"),
            ("A", "a"),
            ("a*", "ab"),
        ] {
            assert!(!matches(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn wildcards_are_whole_tokens_and_for_subscribers() {
        for subject in ["a", "a.b", "a*", "a.>b", "_INBOX.x.1"] {
            assert!(is_subject(subject) && is_pattern(subject), "{subject}");
        }
        for pattern in ["*", ">", "a.*", "*.b", "a.>", "*.>"] {
            assert!(!is_subject(pattern) && is_pattern(pattern), "{pattern}");
        }
        for neither in ["", ".", "a.", ".a", "a..b", "a..>", ".>"] {
            assert!(!is_subject(neither) && !is_pattern(neither), "{neither}");
        }
        for no_pattern in [">.a", "a.>.b"] {
            assert!(!is_pattern(no_pattern), "{no_pattern}");
        }
    }

    #[test]
    fn lines_are_read_as_the_protocol_has_them() {
        let size = 5;
        for (line, op) in [
            ("PING", Op::Ping),
            ("ping ", Op::Ping),
            ("PUB a 5", Op::Pub { subject: "a", reply: None, size }),
            ("pub\ta  b   5", Op::Pub { subject: "a", reply: Some("b"), size }),
            ("SUB a 1", Op::Sub { subject: "a", queue: None, sid: "1" }),
            ("SUB a q 1", Op::Sub { subject: "a", queue: Some("q"), sid: "1" }),
            ("UNSUB 1", Op::Unsub { sid: "1", max: None }),
            ("UNSUB 1 5", Op::Unsub { sid: "1", max: Some(5) }),
            ("MSG a 1 5", Op::Msg { subject: "a", sid: "1", reply: None, size }),
            ("MSG a 1 b 5", Op::Msg { subject: "a", sid: "1", reply: Some("b"), size }),
            ("CONNECT {\"verbose\": false}", Op::Connect("{\"verbose\": false}")),
            ("-ERR 'Stale Connection'", Op::Err("Stale Connection")),
        ] {
            assert_eq!(parse(line), Some(op), "{line}");
        }
        for line in ["", " ", "PUB", "PUB a", "PUB a b", "PUB a -1", "PUB a b c 5", "SUB a", "HPUB"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn switches_are_found_with_and_without_spaces() {
        let options = "{\"verbose\":false, \"echo\" : true,\"name\":\"x\"}";
        assert_eq!(switch(options, "verbose"), Some(false));
        assert_eq!(switch(options, "echo"), Some(true));
        assert_eq!(switch(options, "pedantic"), None);
        assert_eq!(switch(options, "name"), None);
    }
}
