//! Synchronous point-to-point: the caller asks one server, and does nothing else until it has
//! the answer or its patience ends.
//!
//! ```text
//!      client                                   server
//!  (1) connect ──────────────────────────────▶  accept
//!  (2) GET / HTTP/1.1 ───────────────────────▶  ┐
//!        blocked                                │ finds the answer
//!  (3) 200 OK, 6 bytes ◀─────────────────────   ┘
//!  (4) goes on: with the answer, or, once the deadline has passed, with an error
//! ```
//!
//! A call: (1) connect, (2) send the request, (3) read until the answer is complete; (4) all of
//! it under one deadline, for each of these steps can wait for ever.
//!
//! Run: `cargo run -p communication-modes --bin synchronous`, or as separate processes:
//!
//! ```text
//! $ cargo run -p communication-modes --bin synchronous serve 127.0.0.1:7100
//! $ cargo run -p communication-modes --bin synchronous get http://127.0.0.1:7100/
//! HTTP/1.1 200 OK
//! hello
//! $ curl http://127.0.0.1:7100/
//! hello
//! ```
//!
//! Use it when: the caller cannot go on without the answer. It is the call that reads best, and
//! an error comes out where the call was made.
//! Limits: both must be up at the same time, and the caller must know where the server is. After
//! a time-out nobody knows whether the server did the work: ask again only for what may be done
//! twice. The look-up of a host name is getaddrinfo(3)'s, and outside the deadline.
//! Compare with: `communication-modes/src/bin/callback.rs` (there the caller goes on).

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use common::{Misuse, announce, exit_on_stop, listen, run_roles};
use communication_modes::{CONNECTIONS, Process, Timed, connect, read_line, serve};
use log::info;

const USAGE: &str = "\
Usage: synchronous                       a demonstration
       synchronous serve ADDR            a small web server
       synchronous get URL [SECONDS]     ask any web server, wait so long [default: 5]
";
/// The longest answer that the client takes.
const ANSWER: u64 = 16 << 20;
/// The longest head of a request, of all its lines, that the server takes.
const HEAD: u64 = 16 << 10;
/// The longest line that either takes: as the most common servers have it.
const LINE: usize = 8 << 10;
/// How long a client may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What `/slow` takes.
const SLOW: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    run_roles(USAGE, |args| match *args {
        [] => demonstrate(),
        ["serve", addr] => serve_http(addr),
        ["get", url] => show(url, "5"),
        ["get", url, seconds] => show(url, seconds),
        _ => bail!(Misuse),
    })
}

fn demonstrate() -> anyhow::Result<()> {
    let mut server = Process::server("server", &["serve", "127.0.0.1:0"])?;
    let site = format!("http://{}", server.addr);
    let ask = |path: &str, seconds| {
        Process::client("client", &["get", &format!("{site}{path}"), seconds])?.wait()
    };
    ask("/", "5")?;
    println!("--- an answer that the client does not like is an answer still");
    ask("/nowhere", "5")?;
    println!("--- one that does not come in time is an error, and the client goes on");
    ask("/slow", "0.5")?;
    println!("--- and so it is when nobody is there");
    server.kill()?;
    ask("/", "5")?;
    Ok(())
}

fn show(url: &str, seconds: &str) -> anyhow::Result<()> {
    let timeout = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let deadline = deadline.with_context(|| format!("{seconds:?} is no number of seconds"))?;
    let answer = get(url, deadline).map_err(|error| match error.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == ErrorKind::TimedOut => anyhow!("no answer within {seconds} s"),
        _ => error,
    }); // (4)
    let answer = answer.with_context(|| format!("cannot get {}", url.escape_debug()))?;
    writeln!(io::stderr(), "{}", answer.0)?;
    Ok(io::stdout().write_all(&answer.1)?)
}

/// The status as it came, `HTTP/1.1 200 OK`, and the body.
type Answer = (String, Vec<u8>);

/// The call: it returns with the answer, or with the reason why there is none.
fn get(url: &str, deadline: Instant) -> anyhow::Result<Answer> {
    let (host, path) = split(url)?;
    // A colon may also be of an IPv6 address: `[::1]`.
    let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let addr = if has_port { host.to_owned() } else { format!("{host}:80") };
    let stream = connect(&addr, deadline)?; // (1)
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    Timed::new(&stream, deadline).write_all(request.as_bytes())?; // (2)
    let mut input = BufReader::new(Timed::new(&stream, deadline)).take(ANSWER);
    let answer = read_answer(&mut input); // (3)
    ensure!(input.limit() > 0, "the answer is longer than {ANSWER} bytes");
    answer
}

/// Host (with its port, if one is given) and path.
fn split(url: &str) -> anyhow::Result<(&str, String)> {
    ensure!(!url.contains(|c: char| c <= ' ' || c == '\x7f'), "a URL has no spaces");
    let rest = url.strip_prefix("http://").context("this client speaks http:// only")?;
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    ensure!(!host.is_empty(), "there is no host in it");
    Ok((host, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }))
}

fn read_answer(input: &mut impl BufRead) -> anyhow::Result<Answer> {
    loop {
        let status = line(input)?;
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        let code = code.and_then(|code| code.parse().ok()).context("this is no HTTP answer")?;
        let headers = headers(input)?;
        match code {
            100..200 => {} // An interim answer: the real one follows.
            204 | 304 => return Ok((status, Vec::new())),
            _ => return Ok((status, read_body(input, &headers)?)),
        }
    }
}

/// The end of the body is where the headers say, or else where the connection ends.
fn read_body(input: &mut impl BufRead, headers: &Headers) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        loop {
            let size = line(input)?;
            let size = size.split(';').next().unwrap_or_default().trim();
            match u64::from_str_radix(size, 16).context("a chunk without a size")? {
                0 => break,
                size => read_exactly(input, size, &mut body)?,
            }
            ensure!(line(input)?.is_empty(), "a chunk that is longer than its size");
        }
        self::headers(input)?; // Trailers.
    } else if let Some(size) = headers.get("content-length") {
        read_exactly(input, size.parse().context("a length that is no number")?, &mut body)?;
    } else {
        input.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// `size` is the peer's word: memory is taken for what has come, not for what is promised.
fn read_exactly(input: &mut impl Read, size: u64, body: &mut Vec<u8>) -> anyhow::Result<()> {
    let count = input.take(size).read_to_end(body)?;
    ensure!(count as u64 == size, "the connection was closed in the middle of the answer");
    Ok(())
}

type Headers = HashMap<String, String>;

/// By name, in lower case: names are the same in any case.
fn headers(input: &mut impl BufRead) -> anyhow::Result<Headers> {
    let mut headers = Headers::new();
    loop {
        let line = line(input)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_ascii_lowercase());
    }
}

fn line(input: &mut impl BufRead) -> anyhow::Result<String> {
    read_line(input, LINE)?.context("the connection was closed without a complete message")
}

fn serve_http(addr: &str) -> anyhow::Result<()> {
    exit_on_stop()?;
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    serve(&listener, CONNECTIONS, |stream| {
        let (method, (status, text)) = match read_request(stream) {
            Ok((method, path)) => {
                info!("{method} {path}");
                let response = respond(&method, &path);
                (method, response)
            }
            // A peer that is lost, or too slow: nobody is there to be answered.
            Err(error) if error.is::<io::Error>() => return Err(error),
            Err(error) => (String::new(), ("400 Bad Request", format!("{error}\n"))),
        };
        let length = text.len();
        let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
        answer += "Connection: close\r\n\r\n";
        if method != "HEAD" {
            answer += &text;
        }
        Ok(Timed::new(stream, Instant::now() + PATIENCE).write_all(answer.as_bytes())?)
    })
}

fn read_request(stream: &TcpStream) -> anyhow::Result<(String, String)> {
    let mut input = BufReader::new(Timed::new(stream, Instant::now() + PATIENCE)).take(HEAD);
    let request = line(&mut input)?;
    ensure!(request.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "this is no HTTP request");
    let mut words = request.split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        bail!("this is no HTTP request");
    };
    let headers = headers(&mut input)?;
    ensure!(headers.contains_key("host") || request.ends_with("1.0"), "for which host?");
    Ok((method.to_owned(), path.to_owned()))
}

fn respond(method: &str, path: &str) -> (&'static str, String) {
    match (method, path) {
        ("GET" | "HEAD", "/") => ("200 OK", "hello\n".to_owned()),
        ("GET" | "HEAD", "/slow") => {
            thread::sleep(SLOW);
            ("200 OK", "sorry to have kept you\n".to_owned())
        }
        ("GET" | "HEAD", _) => ("404 Not Found", format!("there is nothing at {path}\n")),
        _ => ("405 Method Not Allowed", format!("{method} is not for reading\n")),
    }
}
