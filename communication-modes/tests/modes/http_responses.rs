//! `synchronous get`: responses that are complete, cut off, ambiguous or invalid.
//!
//! The numbers are the sections of RFC 9112 whose requirements a test checks.

use std::process::Output;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::peer::Listener;
use crate::support::{fails, join, run, succeeds, text, trials};

pub fn trials() -> Vec<Trial> {
    trials!("http_responses":
        complete_bodies incomplete_responses ambiguous_responses invalid_heads terminal_escapes
    )
}

/// Runs the client against a server that sends `response` and then closes the connection.
fn get_from(response: impl Into<Vec<u8>>) -> Result<Output> {
    let listener = Listener::new()?;
    let url = format!("http://{}/", listener.addr);
    let response = response.into();
    let server = listener.serve(move |mut peer| {
        while !peer.line()?.is_empty() {}
        let _ = peer.send(response); // the client need not read all of it
        Ok(())
    });
    let output = run("synchronous", &["get", &url, "10"])?;
    join(server)?;
    Ok(output)
}

/// 2.2 (LF alone, octets that are not ASCII), 4 (interim responses), 5.2 (folded fields), 6.3, 7.1 (chunks), 7.1.1 (extensions),
/// 7.1.2 (trailers).
fn complete_bodies() -> Result<()> {
    let cases: [(&[u8], &str); 14] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", "abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\ncontent-length: 3\r\n\r\nabc", "abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", "to the end"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\nA: b\r\n\r\n", "abcde"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n00001\r\nx\r\n000\r\n\r\n", "x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\nmore", "0123456789"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nContent-Length: 9\r\n\r\nmore", "x"),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length:\r\n\t2\r\n\r\nok", "ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        (b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\nnothing", ""),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\ncontent-length:2\n\nok", "ok"),
        (b"HTTP/1.1 200\r\nX: \xe9\r\nContent-Length: 1\r\n\r\nx", "x"),
    ];
    for (response, body) in cases {
        let output = get_from(response)?;
        ensure!(succeeds(&output)? == body, "{}: {output:?}", text(response));
    }
    Ok(())
}

/// 6.3, 7.1, 8: a response that is cut off is an error, wherever that happens.
fn incomplete_responses() -> Result<()> {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    let mut cases: Vec<_> = (0..whole.len()).map(|length| whole[..length].to_owned()).collect();
    for cut in ["", "3", "3\r\n", "3\r\nab", "3\r\nabc", "3\r\nabc\r\n", "3\r\nabc\r\n0\r\n"] {
        cases.push(format!("{chunked}{cut}"));
    }
    cases.push(format!("{chunked}3\r\nabc\r\n0\r\nA: b\r\n"));
    cases.push(format!("{chunked}ffffffffffffffff\r\nab"));
    cases.push("HTTP/1.1 100 Continue\r\n\r\n".to_owned());
    for case in cases {
        let output = get_from(&*case)?;
        ensure!(output.status.code() == Some(1), "{case:?}: {output:?}");
        fails(&output, 1, "cannot get")?;
    }
    // A body without a mark ends with FIN, and not with RST.
    let listener = Listener::new()?;
    let url = format!("http://{}/", listener.addr);
    let server = listener.serve(move |mut peer| {
        while !peer.line()?.is_empty() {}
        peer.send("HTTP/1.1 200 OK\r\n\r\nhalf a body")?;
        peer.reset()
    });
    fails(&run("synchronous", &["get", &url])?, 1, "Connection reset")?;
    join(server)
}

/// 6.1, 6.3, 7.1: what two clients could read in two ways is an error.
fn ambiguous_responses() -> Result<()> {
    let chunks = "1\r\nx\r\n0\r\n\r\n";
    for (version, fields, body) in [
        ("1.1", "Content-Length: 1\r\nContent-Length: 2\r\n", "xy"),
        ("1.1", "Content-Length: 1, 2\r\n", "xy"),
        ("1.1", "Content-Length: +1\r\n", "x"),
        ("1.1", "Content-Length: -1\r\n", "x"),
        ("1.1", "Content-Length: 1 1\r\n", "x"),
        ("1.1", "Content-Length: 0x1\r\n", "x"),
        ("1.1", "Content-Length: \r\n", "x"),
        ("1.1", "Content-Length: 99999999999999999999\r\n", "x"),
        ("1.1", "Content-Length : 1\r\n", "x"),
        ("1.1", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", chunks),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", chunks),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunks),
        ("1.1", "Transfer-Encoding: xchunked\r\n", chunks),
        ("1.1", "Transfer-Encoding: gzip, chunked\r\n", chunks),
        ("1.1", "Transfer-Encoding: chunked, gzip\r\n", chunks),
        ("1.1", "Transfer-Encoding: identity\r\n", "x"),
        ("1.1", "Transfer-Encoding: \r\n", "x"),
        ("1.0", "Transfer-Encoding: chunked\r\n", chunks),
        ("1.1", "Transfer-Encoding: chunked\r\n", "+1\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "0x1\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", ";a\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1;a\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1;a\rb\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1;a\0b\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1 1\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked;q=1\r\n", chunks),
        ("1.1", "Transfer-Encoding: \"chunked\"\r\n", chunks),
        ("1.1", "Transfer-Encoding: chunked,\r\n", chunks),
        ("1.1", "Content-Length: 1\r\n 2\r\n", "xy"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "10000000000000001\r\nx\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1\r\nxy\r\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1\r\nx\n\n0\r\n\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\nnot a field\r\n\r\n"),
    ] {
        let response = format!("HTTP/{version} 200 OK\r\n{fields}\r\n{body}");
        let output = get_from(&*response)?;
        ensure!(output.status.code() == Some(1), "{response:?}: {output:?}");
        fails(&output, 1, "cannot get")?;
    }
    Ok(())
}

/// 2.2 (bare CR, space before the first field), 4, 5.1.
fn invalid_heads() -> Result<()> {
    for head in [
        "HTTP/1.1 two hundred",
        "HTTP/1.1 +200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1  200 OK",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "220 mail.example ESMTP",
        "\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 200 OK\r\n A: b",
        "HTTP/1.1 200 OK\r\nA : b",
        "HTTP/1.1 200 OK\r\nA: b\rC: d",
        "HTTP/1.1 200 OK\r\nA: b\0",
        "HTTP/1.1 200 OK\r\nno colon",
        "HTTP/1.1 200 OK\r\n: no name",
    ] {
        let output = get_from(format!("{head}\r\nContent-Length: 0\r\n\r\n"))?;
        ensure!(output.status.code() == Some(1), "{head:?}: {output:?}");
        fails(&output, 1, "cannot get")?;
    }
    Ok(())
}

/// A server must not be able to write to the terminal of the user.
fn terminal_escapes() -> Result<()> {
    for reason in ["\x1b]0;owned\x07", "\u{9b}31m", "\u{202e}KO"] {
        let output = get_from(format!("HTTP/1.1 200 {reason}\r\nContent-Length: 0\r\n\r\n"))?;
        let printed = text(&output.stderr);
        let is_clean = |c: char| c == '\n' || (!c.is_control() && c != '\u{202e}');
        ensure!(printed.chars().all(is_clean), "{printed:?}");
    }
    Ok(())
}
