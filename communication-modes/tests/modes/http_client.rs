//! `synchronous get`: what the client sends, and how long it waits.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::peer::{ClosedPort, Listener};
use crate::support::{TIMEOUT, fails, join, run, server, succeeds, text, trials};

pub fn trials() -> Vec<Trial> {
    trials!("http_client":
        the_request responses timeout_of_silence timeout_of_a_drip no_server invalid_urls too_much
    )
}

/// The request is exactly these lines. RFC 9112: 2.2 and 5.2 (no extra CRLF or space), 3.2 (`Host`), 3.2.1
/// (a target in origin form), 6.1 and 6.2 (no body), 9.3 and 9.6 (`close`, and nothing after it).
fn the_request() -> Result<()> {
    for (path, target) in [("", "/"), ("/a?b=c#d", "/a?b=c"), ("?b", "/?b")] {
        let listener = Listener::new()?;
        let host = listener.addr.clone();
        let url = format!("HTTP://{host}{path}");
        let server = listener.serve(move |mut peer| {
            let line = format!("GET {target} HTTP/1.1");
            peer.lines(&[&line, &format!("Host: {host}"), "Connection: close", ""])?;
            peer.send("HTTP/1.1 204 No Content\r\n\r\n")?;
            ensure!(peer.rest()?.is_empty(), "more than a request");
            Ok(())
        });
        succeeds(&run("synchronous", &["get", &url])?)?;
        join(server)?;
    }
    Ok(())
}

fn responses() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    for (path, status, body) in
        [("/", "200 OK", "hello\n"), ("/x", "404", "there is nothing at /x\n")]
    {
        let output = run("synchronous", &["get", &format!("http://{}{path}", server.addr)])?;
        ensure!(succeeds(&output)? == body, "{output:?}");
        ensure!(text(&output.stderr).contains(status), "{output:?}");
    }
    Ok(())
}

fn timeout_of_silence() -> Result<()> {
    let listener = Listener::new()?;
    let url = format!("http://{}/", listener.addr);
    fails(&run("synchronous", &["get", &url, "0.2"])?, 1, "no response within 0.2 s")
}

/// Each read returns something, and still the response is never complete.
fn timeout_of_a_drip() -> Result<()> {
    let listener = Listener::new()?;
    let url = format!("http://{}/", listener.addr);
    let _dripping = listener.serve(|mut peer| -> Result<()> {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
        loop {
            peer.send("x")?;
            thread::sleep(Duration::from_millis(10));
        }
    });
    let start = Instant::now();
    fails(&run("synchronous", &["get", &url, "0.3"])?, 1, "no response within 0.3 s")?;
    ensure!(start.elapsed() < TIMEOUT);
    Ok(())
}

fn no_server() -> Result<()> {
    let closed = ClosedPort::new()?;
    let url = format!("http://{}/", closed.addr);
    fails(&run("synchronous", &["get", &url])?, 1, &format!("{url}: Connection refused"))
}

/// RFC 9112, 2.2: no CR gets into a request.
fn invalid_urls() -> Result<()> {
    for (url, part) in [
        ("https://localhost/", "only http://"),
        ("localhost", "only http://"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://localhost/a b", "percent-encoded"),
        ("http://localhost/\r\nX: y", "percent-encoded"),
        ("http://localhost/ä", "percent-encoded"),
        ("http://localhost:port/", "port"),
        ("http://user:password@localhost/", "user name"),
    ] {
        fails(&run("synchronous", &["get", url])?, 1, part)?;
    }
    for seconds in ["soon", "-1", "NaN", "1e19", "inf"] {
        let output = run("synchronous", &["get", "http://localhost/", seconds])?;
        fails(&output, 1, "is not a number of seconds")?;
    }
    Ok(())
}

/// A response, a head or a line without an end.
fn too_much() -> Result<()> {
    for (head, block, part) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "x", "longer than 16777216 bytes"),
        ("HTTP/1.1 200 OK\r\n", "A: b\r\n", "longer than 16384 bytes"),
        ("", "x", "longer than 8192 bytes"),
    ] {
        let listener = Listener::new()?;
        let url = format!("http://{}/", listener.addr);
        let _flooding = listener.serve(move |mut peer| -> Result<()> {
            peer.send(head)?;
            loop {
                peer.send(block.repeat(10_000))?;
            }
        });
        fails(&run("synchronous", &["get", &url, "20"])?, 1, part)?;
    }
    Ok(())
}
