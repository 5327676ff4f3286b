//! `synchronous`: the client against servers of every kind, the server against `curl` and others.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    Door, PATIENCE, Peer, Shut, fails, missing, run, server, text, trial, trials,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials!("synchronous":
        answers answers_of_every_shape answers_that_are_none time_out_of_silence time_out_of_a_drip
        nobody_there bad_urls too_much the_server_knows_http a_refusal_is_not_lost
    );
    trials.push(trial("synchronous::curl", missing("curl"), curl));
    trials
}

/// What the client makes of `answer`, which comes once it has asked.
fn get_from(answer: &'static [u8]) -> Result<std::process::Output> {
    let door = Door::open()?;
    let url = format!("http://{}/", door.addr);
    let server = thread::spawn(move || -> Result<()> {
        let mut peer = door.accept()?;
        while !peer.line()?.is_empty() {}
        // The client need not take it all.
        let _ = peer.send(answer);
        Ok(())
    });
    let output = run("synchronous", &["get", &url, "10"])?;
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    Ok(output)
}

fn answers() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    for (path, status, body) in
        [("/", "200 OK", "hello\n"), ("/x", "404", "there is nothing at /x\n")]
    {
        let output = run("synchronous", &["get", &format!("http://{}{path}", server.addr)])?;
        ensure!(output.status.success() && text(&output.stdout) == body, "{output:?}");
        ensure!(text(&output.stderr).contains(status), "{output:?}");
    }
    Ok(())
}

fn answers_of_every_shape() -> Result<()> {
    let cases: [(&[u8], &str); 8] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", "abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", "to the end"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n", "abcde"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\ncontent-length: 1\r\n\r\n1\r\nx\r\n0\r\n\r\n", "x"),
        (b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x"),
        (b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\nnothing", ""),
        (b"HTTP/1.1 200 OK\ncontent-length:2\n\nok", "ok"),
        (b"HTTP/1.1 200 \r\nX: \xe9\r\nContent-Length: 1\r\n\r\nx", "x"),
    ];
    for (answer, body) in cases {
        let output = get_from(answer)?;
        ensure!(output.status.success() && text(&output.stdout) == body, "{body}: {output:?}");
    }
    Ok(())
}

fn answers_that_are_none() -> Result<()> {
    let cases: [(&[u8], &str); 9] = [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "closed in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef",
            "longer than its size",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
            "in the middle",
        ),
        (b"HTTP/1.1 two hundred\r\n\r\n", "no HTTP answer"),
        (b"220 mail.example ESMTP\r\n", "no HTTP answer"),
    ];
    for (answer, part) in cases {
        fails(&get_from(answer)?, 1, part)?;
    }
    Ok(())
}

fn time_out_of_silence() -> Result<()> {
    let door = Door::open()?;
    let url = format!("http://{}/", door.addr);
    fails(&run("synchronous", &["get", &url, "0.2"])?, 1, "no answer within 0.2 s")
}

/// Each read brings something, and the answer still never comes.
fn time_out_of_a_drip() -> Result<()> {
    let door = Door::open()?;
    let url = format!("http://{}/", door.addr);
    thread::spawn(move || -> Result<()> {
        let mut peer = door.accept()?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
        loop {
            peer.send("x")?;
            thread::sleep(Duration::from_millis(10));
        }
    });
    let start = Instant::now();
    fails(&run("synchronous", &["get", &url, "0.3"])?, 1, "no answer within 0.3 s")?;
    ensure!(start.elapsed() < PATIENCE);
    Ok(())
}

fn nobody_there() -> Result<()> {
    let shut = Shut::new()?;
    let url = format!("http://{}/", shut.addr);
    fails(&run("synchronous", &["get", &url])?, 1, &format!("{url}: Connection refused"))
}

fn bad_urls() -> Result<()> {
    for (url, part) in [
        ("https://localhost/", "http:// only"),
        ("localhost", "http:// only"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://localhost/a b", "no spaces"),
        ("http://localhost/\r\nX: y", "no spaces"),
        ("http://localhost:port/", "invalid port"),
    ] {
        fails(&run("synchronous", &["get", url])?, 1, part)?;
    }
    for seconds in ["soon", "-1", "NaN", "1e19", "inf"] {
        let output = run("synchronous", &["get", "http://localhost/", seconds])?;
        fails(&output, 1, "no number of seconds")?;
    }
    Ok(())
}

/// Bounds: an answer or a line without an end.
fn too_much() -> Result<()> {
    for (head, block, part) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "x", "longer than 16777216 bytes"),
        ("HTTP/1.1 200 OK\r\n", "x", "longer than 8192 bytes"),
    ] {
        let door = Door::open()?;
        let url = format!("http://{}/", door.addr);
        thread::spawn(move || -> Result<()> {
            let mut peer = door.accept()?;
            peer.send(head)?;
            loop {
                peer.send(block.repeat(60_000))?;
            }
        });
        fails(&run("synchronous", &["get", &url, "20"])?, 1, part)?;
    }
    Ok(())
}

fn the_server_knows_http() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.1\nhost: x\n\n", "200 OK"),
        ("GET / HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET /\r\n\r\n", "400 Bad Request"),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", "400 Bad Request"),
        ("\r\n\r\n", "400 Bad Request"),
        ("POST / HTTP/1.1\r\nHost: x\r\n\r\n", "405 Method Not Allowed"),
        (&long, "400 Bad Request"),
        (&many, "400 Bad Request"),
    ] {
        let mut peer = Peer::connect(&server.addr)?;
        peer.send(request)?;
        let answer = text(&peer.rest()?);
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
    }
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let answer = text(&peer.rest()?);
    ensure!(answer.contains("Content-Length: 6\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    // A byte at a time.
    let mut peer = Peer::connect(&server.addr)?;
    for byte in "GET / HTTP/1.1\r\nHost: x\r\n\r\n".bytes() {
        peer.send([byte])?;
    }
    ensure!(text(&peer.rest()?).ends_with("\r\n\r\nhello\n"));
    Ok(())
}

/// A server that closes with bytes unread resets the connection, and takes its answer back.
fn a_refusal_is_not_lost() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")?;
    peer.send("x".repeat(500_000))?;
    ensure!(text(&peer.rest()?).starts_with("HTTP/1.1 405 "));
    Ok(())
}

fn curl() -> Result<()> {
    let server = server("synchronous", &["serve", "127.0.0.1:0"])?;
    let curl = |args: &[&str], path: &str| -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]).args(args);
        let output = command.arg(format!("http://{}{path}", server.addr)).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(text(&output.stdout))
    };
    ensure!(curl(&[], "/")? == "hello\n");
    ensure!(curl(&["--write-out", "%{http_code}"], "/x")?.ends_with("404"));
    ensure!(curl(&["--head"], "/")?.starts_with("HTTP/1.1 200 OK"));
    ensure!(curl(&["--data", "x=y", "--write-out", "%{http_code}"], "/")?.ends_with("405"));
    Ok(())
}
