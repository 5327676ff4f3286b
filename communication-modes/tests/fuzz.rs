//! Properties of the parsers that hold for any input: the NATS protocol, and the heads of HTTP
//! requests. proptest makes up the inputs, and shrinks a failing input to a small one.
//!
//! `PROPTEST_CASES=100000 cargo test --release -p communication-modes fuzz` tries more of them.

use std::env;
use std::io::{self, BufReader, Read};

use communication_modes::http::{Request, read_request};
use communication_modes::nats::{self, MAX_LINE, Op};
use communication_modes::read_line;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A limit for payloads that short inputs exceed.
const MAX_PAYLOAD: usize = 40;

fn config() -> ProptestConfig {
    // The default has read PROPTEST_CASES. A failure is printed, and not written to a file.
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if env::var_os("PROPTEST_CASES").is_some() {
        default
    } else {
        ProptestConfig { cases: 200, ..default }
    }
}

/// A connection on which the bytes arrive in pieces of these sizes.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: &'a [usize],
    read: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = match self.sizes {
            [] => buffer.len(),
            [first, rest @ ..] => {
                self.sizes = rest;
                *first
            }
        };
        let count = self.bytes.take(size as u64).read(buffer)?;
        self.bytes = &self.bytes[count..];
        self.read += count;
        Ok(count)
    }
}

fn pieces<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> BufReader<Pieces<'a>> {
    BufReader::new(Pieces { bytes, sizes, read: 0 })
}

/// The messages of a NATS connection up to its end, or up to an error.
fn messages(bytes: &[u8], sizes: &[usize]) -> Vec<String> {
    let mut input = pieces(bytes, sizes);
    let mut messages = Vec::new();
    loop {
        let message = next_message(&mut input);
        let is_last = !matches!(&message, Ok(Some(_)));
        messages.push(text(message));
        if is_last {
            return messages;
        }
    }
}

/// Without the backtrace of an error, which differs.
fn text(result: anyhow::Result<impl std::fmt::Debug>) -> String {
    result.map_or_else(|error| format!("{error:#}"), |value| format!("{value:?}"))
}

fn next_message(input: &mut BufReader<Pieces<'_>>) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    let Some(line) = read_line(input, MAX_LINE)? else { return Ok(None) };
    assert!(line.len() <= MAX_LINE);
    let op = nats::parse(&line)?;
    let text = format!("{op:?}");
    let payload = match op {
        Op::Pub { size, .. } | Op::Msg { size, .. } => {
            nats::read_payload(input, size, MAX_PAYLOAD)?
        }
        _ => Vec::new(),
    };
    assert!(payload.len() <= MAX_PAYLOAD);
    Ok(Some((text, payload)))
}

fn nats_part() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "PING\r\n",
        "PONG\r\n",
        "+OK\r\n",
        "-ERR 'x'\r\n",
        "CONNECT {}\r\n",
        "INFO {}\r\n",
        "PUB a 5\r\nhello\r\n",
        "PUB a b 0\r\n\r\n",
        "PUB a 41\r\n",
        "PUB a +5\r\n",
        "PUB ",
        "SUB a 1\r\n",
        "SUB a q 1\r\n",
        "UNSUB 1 5\r\n",
        "MSG a 1 2\r\nhi\r\n",
        "HMSG a 1 2 3\r\nabc\r\n",
        "HMSG a 1 3 2\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        "99999999999",
    ]);
    prop_oneof![
        6 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..30),
        1 => (MAX_LINE - 20..MAX_LINE + 20).prop_map(|count| vec![b'x'; count]),
    ]
}

fn http_part() -> impl Strategy<Value = Vec<u8>> {
    let lines = select(vec![
        "Host: a\r\n",
        "Host : a\r\n",
        "Content-Length: 5\r\n",
        "content-length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length:\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "A: b\r\n",
        "A: b\n",
        " folded\r\n",
        "A\r\n",
        ": b\r\n",
    ]);
    prop_oneof![
        8 => lines.prop_map(|line| line.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..20),
        1 => (8000..9000_usize).prop_map(|count| vec![b'x'; count]),
    ]
}

fn http_request() -> impl Strategy<Value = Vec<u8>> {
    let first = select(vec![
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /x?y HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.0\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "\r\nHEAD / HTTP/1.1\r\n",
        "GET / HTTP/2.0\r\n",
        "GET /\r\n",
    ]);
    let end = select(vec!["\r\n", "\r\n", "\n", "", "\r\nbody"]);
    (first, vec(http_part(), 0..5), end).prop_map(|(first, parts, end)| {
        [first.as_bytes(), &parts.concat(), end.as_bytes()].concat()
    })
}

fn verdict(bytes: &[u8], sizes: &[usize]) -> (String, Option<Request>) {
    match read_request(&mut pieces(bytes, sizes)) {
        Ok(request) => (String::new(), Some(request)),
        Err(error) => (format!("{error:#}"), None),
    }
}

/// The elements of all fields with this name, found without the parser that is tested.
fn elements(head: &str, name: &str) -> Vec<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    let values = fields.flat_map(|(_, value)| value.split(','));
    values.map(|value| value.trim().to_ascii_lowercase()).collect()
}

/// So that the names of the tests contain `fuzz`.
mod fuzz {
    use super::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn nats_messages_may_be_split_anywhere(
            parts in vec(nats_part(), 0..10),
            sizes in vec(1..10_usize, 0..400),
        ) {
            let bytes = parts.concat();
            prop_assert_eq!(messages(&bytes, &[]), messages(&bytes, &sizes));
        }

        /// A peer that sends a line or a payload without an end makes the reader keep no more than the
        /// limit. The reader has a buffer of 8 KiB.
        #[test]
        fn a_nats_message_over_the_limit_is_not_kept(
            start in nats_part(),
            sizes in vec(1..5000_usize, 0..50),
        ) {
            let bytes = [start, vec![b'x'; 200_000]].concat();
            let mut input = pieces(&bytes, &sizes);
            while let Ok(Some(_)) = next_message(&mut input) {}
            prop_assert!(input.get_ref().read <= 2 * MAX_LINE + MAX_PAYLOAD + 8192);
        }

        #[test]
        fn an_http_request_may_be_split_anywhere(
            bytes in http_request(),
            sizes in vec(1..20_usize, 0..400),
        ) {
            prop_assert_eq!(verdict(&bytes, &[]), verdict(&bytes, &sizes));
        }

        #[test]
        fn http_framing_is_never_ambiguous(bytes in http_request()) {
            if verdict(&bytes, &[]).1.is_some() {
                let text = String::from_utf8_lossy(&bytes);
                let body = text.find("\r\n\r\n").unwrap_or(text.len());
                let head = &text[..body];
                let lengths = elements(head, "Content-Length");
                let codings = elements(head, "Transfer-Encoding");
                prop_assert!(lengths.is_empty() || codings.is_empty(), "{}", head);
                prop_assert!(lengths.iter().all(|it| *it == lengths[0]), "{}", head);
                let is_number = |it: &String| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
                prop_assert!(lengths.iter().all(is_number), "{}", head);
                prop_assert!(codings.is_empty() || codings == ["chunked"], "{}", head);
            }
        }
    }
}
