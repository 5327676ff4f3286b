//! `synchronous serve`: requests that are valid, invalid, too long or cut off.
//!
//! The numbers are the sections of RFC 9112 whose requirements a test checks.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::peer::Peer;
use crate::support::{server, text, trials};

pub fn trials() -> Vec<Trial> {
    trials!("http_server":
        valid_requests invalid_requests faulty_framing limits fields_of_a_response
        a_byte_at_a_time a_request_that_is_cut_off a_refusal_is_not_lost one_request_per_connection
    )
}

/// Sends `request`, and returns everything that the server sends until it closes the connection.
fn answer(addr: &str, request: impl AsRef<[u8]>) -> Result<String> {
    let mut peer = Peer::connect(addr)?;
    peer.send(request)?;
    Ok(text(&peer.rest()?))
}

fn check(cases: &[(&str, &str)]) -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    for (request, status) in cases {
        let answer = answer(&server.addr, request)?;
        let line = answer.lines().next().unwrap_or_default();
        ensure!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.200?}: {line:?}");
    }
    Ok(())
}

/// 2.2 (LF alone, empty lines before the request, octets that are not ASCII), and the four forms of a
/// target: 3.2.1, 3.2.2, 3.2.3, 3.2.4.
fn valid_requests() -> Result<()> {
    check(&[
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET / HTTP/1.1\nhost: x\n\n", "200"),
        ("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("\r\n\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("GET /?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET http://host HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET http://host?a HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET HTTP://host:80/?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET http://host/path HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /%c3%a4 HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: ä\r\nB:\t c \t\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "200"),
        ("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", "200"),
        ("POST / HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("CONNECT host:80 HTTP/1.1\r\nHost: host:80\r\n\r\n", "405"),
        ("BREW / HTTP/1.1\r\nHost: x\r\n\r\n", "501"),
        ("get / HTTP/1.1\r\nHost: x\r\n\r\n", "501"),
    ])
}

/// 2.2 (bare CR, whitespace before the first field), 2.3, 3, 3.2 (`Host`), 5.1 (space before the
/// colon), 5.2 (folded fields); RFC 9110, 5.5 (NUL).
fn invalid_requests() -> Result<()> {
    check(&[
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x, y\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: u@x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost\t: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n Host: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", "400"),
        ("GET /\r HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nA\"B: c\r\n\r\n", "400"),
        ("GET /\r\n\r\n", "400"),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1 \r\nHost: x\r\n\r\n", "400"),
        ("GET / / HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET http://a@b/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET /ä HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET / http/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET / HTTP/1.1x\r\nHost: x\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", "505"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        ("GET / HTTP/1.2\r\nHost: x\r\n\r\n", "505"),
        ("\x16\x03\x01\r\n\r\n", "400"),
        ("(GET) / HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
    ])
}

/// 6.1, 6.3: faulty framing is refused, although the server ignores bodies. The connection is closed.
fn faulty_framing() -> Result<()> {
    let mut cases = Vec::new();
    for (fields, status) in [
        ("Content-Length: +3", "400"),
        ("Content-Length: 3, 4", "400"),
        ("Content-Length: 3\r\nContent-Length: 4", "400"),
        ("Content-Length: 3\r\nContent-Length: 3", "405"),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", "400"),
        ("Transfer-Encoding: chunked, chunked", "400"),
        ("Transfer-Encoding: chunked, gzip", "400"),
        ("Transfer-Encoding: xchunked", "400"),
        ("Transfer-Encoding: gzip", "400"),
        ("Transfer-Encoding: gzip, chunked", "501"),
    ] {
        cases.push((format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\nabc"), status));
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    cases.push((old.to_owned(), "400"));
    let cases: Vec<_> = cases.iter().map(|(request, status)| (request.as_str(), *status)).collect();
    check(&cases)
}

/// 3: a long target is 414, a long head 431, and a target of 8000 bytes is not long.
fn limits() -> Result<()> {
    let target = |length| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(length));
    let head = |count| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(count));
    let long_field = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(20_000));
    check(&[
        (&target(8000), "404"),
        (&target(9000), "414"),
        (&"x".repeat(20_000), "414"),
        (&head(90), "200"),
        (&head(110), "431"),
        (&head(10_000), "431"),
        (&long_field, "431"),
        (&"\r\n".repeat(10_000), "431"),
    ])
}

/// 2.2 and 5.2 (only lines of the form `NAME: VALUE`), 4 (a space after the status code), 6.1 and 6.2 (a
/// length, and no coding), 6.3 (HEAD), 9.3 (`close`). RFC 9110: `Date`, `Allow`, `Content-Length`.
fn fields_of_a_response() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("GET /x HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
        ("HEAD / HTTP/1.1\r\n\r\n", "400"),
        ("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("x\r\n\r\n", "400"),
    ] {
        let answer = answer(&server.addr, request)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let lines = head.split("\r\n").skip(1).map(|line| line.split_once(": "));
        let fields = lines.collect::<Option<Vec<_>>>().with_context(|| answer.clone())?;
        let is_plain = |text: &str| !text.contains(char::is_control) && text.trim() == text;
        ensure!(fields.iter().all(|(name, value)| is_plain(name) && is_plain(value)), "{answer}");
        let field = |name: &str| -> Vec<&str> {
            let found = fields.iter().filter(|(it, _)| *it == name);
            found.map(|(_, value)| *value).collect()
        };
        ensure!(field("Connection") == ["close"], "{answer}");
        ensure!(field("Transfer-Encoding").is_empty(), "{answer}");
        ensure!(field("Allow").is_empty() == (status != "405"), "{answer}");
        // Such as "Sun, 06 Nov 1994 08:49:37 GMT".
        let date = field("Date").concat();
        ensure!(date.len() == 29 && date.ends_with(" GMT"), "{answer}");
        let length: usize = field("Content-Length").concat().parse()?;
        ensure!(length > 0, "{answer}");
        let is_head = request.starts_with("HEAD");
        ensure!(body.len() == if is_head { 0 } else { length }, "{answer}");
    }
    Ok(())
}

fn a_byte_at_a_time() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    for byte in "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".bytes() {
        peer.send([byte])?;
    }
    ensure!(text(&peer.rest()?).ends_with("\r\n\r\nhello\n"));
    Ok(())
}

/// 8: a request that is cut off is not executed.
fn a_request_that_is_cut_off() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for length in 0..request.len() {
        let mut peer = Peer::connect(&server.addr)?;
        peer.send(&request[..length])?;
        peer.finish()?;
        let answer = text(&peer.rest()?);
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{length}: {answer}");
    }
    Ok(())
}

/// 9.6: after a response with `close`, further requests on the connection are not processed.
fn one_request_per_connection() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = answer(&server.addr, request.repeat(3))?;
    ensure!(answer.matches("HTTP/1.1 200").count() == 1, "{answer}");
    Ok(())
}

/// 9.3 (the server reads the body or closes), 9.6: closing with unread input sends RST, which would
/// discard the response.
fn a_refusal_is_not_lost() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")?;
    peer.send("x".repeat(500_000))?;
    ensure!(text(&peer.rest()?).starts_with("HTTP/1.1 405 "));
    Ok(())
}
