//! Synchronous point-to-point: the caller sends a request to one server. It waits until the
//! response is complete, the connection fails, or a deadline has passed.
//!
//! ```text
//!      client                                   server
//!  (1) connect ──────────────────────────────▶  accept
//!  (2) GET / HTTP/1.1 ───────────────────────▶  ┐
//!        blocked                                │ works on the response
//!  (3) 200 OK, 6 bytes ◀─────────────────────   ┘
//!  (4) continues, with the response or with an error
//! ```
//!
//! How a call travels: (1) The client connects, (2) sends the request, and (3) reads until the
//! response is complete. Each of `connect`, `write` and `read` can block for ever. All of them
//! share one deadline. (4) The call returns the response, or an error that says why there is none.
//!
//! The catch: a timeout of a socket applies to each read separately. A server that sends one byte
//! per second could keep the client waiting for hours. `DeadlineStream` therefore sets the timeout
//! before each system call, to the time that is left.
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
//! Use it when: the caller cannot continue without the response. The code runs in the order in
//! which it is written, and an error is reported where the call was made.
//! Limits: the caller must know the server's address, and both programs must run at the same time.
//! After a timeout the caller does not know whether the server has done the work, so it may repeat
//! only requests that are safe to do twice. The deadline does not cover the look-up of the host
//! name, because getaddrinfo(3) has no timeout argument. Next: hyper or reqwest for clients, hyper
//! or axum for servers.
//! Compare with: `communication-modes/src/bin/callback.rs` (the caller does not wait).

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};
use communication_modes::http::{self, Refusal, Request, Response, Url};
use communication_modes::{
    DeadlineStream, MAX_CONNECTIONS, Misuse, Process, connect, run_roles, run_server,
};
use log::info;

const USAGE: &str = "\
Usage: synchronous                       run a demonstration
       synchronous serve ADDR            run a small web server
       synchronous get URL [SECONDS]     get a page from a web server, and wait
                                         SECONDS for it [default: 5]
";
/// The largest response that the client accepts, in bytes.
const MAX_RESPONSE: u64 = 16 << 20;
/// How long a client may take to send a request, and to receive the response.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server works on `/slow`.
const SLOW: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    run_roles(USAGE, |args| match *args {
        [] => demonstrate(),
        ["serve", addr] => run_server(addr, MAX_CONNECTIONS, |stream| converse(stream)),
        ["get", url] => show(url, "5"),
        ["get", url, seconds] => show(url, seconds),
        _ => bail!(Misuse),
    })
}

fn demonstrate() -> anyhow::Result<()> {
    let mut server = Process::server("server", &["serve", "127.0.0.1:0"])?;
    let site = format!("http://{}", server.addr);
    let get = |path: &str, seconds| {
        Process::client("client", &["get", &format!("{site}{path}"), seconds])?.wait()
    };
    get("/", "5")?;
    println!("--- status 404 is a response too: the call succeeds");
    get("/nowhere", "5")?;
    println!("--- a response that does not arrive in time is an error, and the client continues");
    get("/slow", "0.5")?;
    println!("--- a server that does not run is an error at once");
    server.kill()?;
    get("/", "5")?;
    Ok(())
}

fn show(url: &str, seconds: &str) -> anyhow::Result<()> {
    let timeout = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let deadline = deadline.with_context(|| format!("{seconds:?} is not a number of seconds"))?;
    let response = get(url, deadline).map_err(|error| match error.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == ErrorKind::TimedOut => anyhow!("no response within {seconds} s"),
        _ => error,
    }); // (4)
    let response = response.with_context(|| format!("cannot get {}", url.escape_debug()))?;
    writeln!(io::stderr(), "{}", response.status)?;
    Ok(io::stdout().write_all(&response.body)?)
}

/// Makes the call. Returns the response, or the reason why there is none.
fn get(url: &str, deadline: Instant) -> anyhow::Result<Response> {
    let url = Url::parse(url)?;
    let stream = connect(&url.addr(), deadline)?; // (1)
    let mut stream = DeadlineStream::new(&stream, deadline);
    let Url { authority, target } = url;
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?; // (2)
    let mut input = BufReader::new(stream).take(MAX_RESPONSE + 1);
    let response = http::read_response(&mut input); // (3)
    ensure!(input.limit() > 0, "the response is longer than {MAX_RESPONSE} bytes");
    response
}

/// Answers one request. The connection is closed after it, so the response says so.
fn converse(stream: &TcpStream) -> anyhow::Result<()> {
    let input = DeadlineStream::new(stream, Instant::now() + CLIENT_TIMEOUT);
    let request = http::read_request(&mut BufReader::new(input));
    let (is_head, (status, text)) = match request {
        Ok(request) => {
            info!("{} {}", request.method, request.path);
            (request.method == "HEAD", respond(&request))
        }
        Err(error) => {
            // Any other error means that the connection failed: there is nobody to send a status
            // to.
            let Refusal { status, reason, is_head } = error.downcast()?;
            info!("{status}: {reason}");
            (is_head, (status, format!("{reason}\n")))
        }
    };
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut response = format!("HTTP/1.1 {status}\r\nDate: {date}\r\n");
    if status.starts_with("405") {
        response += "Allow: GET, HEAD\r\n";
    }
    response += "Content-Type: text/plain\r\nConnection: close\r\n";
    response += &format!("Content-Length: {}\r\n\r\n", text.len());
    if !is_head {
        response += &text;
    }
    let mut output = DeadlineStream::new(stream, Instant::now() + CLIENT_TIMEOUT);
    Ok(output.write_all(response.as_bytes())?)
}

fn respond(Request { method, path }: &Request) -> (&'static str, String) {
    match (method.as_str(), path.as_str()) {
        ("GET" | "HEAD", "/") => ("200 OK", "hello\n".to_owned()),
        ("GET" | "HEAD", "/slow") => {
            thread::sleep(SLOW);
            ("200 OK", "that took a while\n".to_owned())
        }
        ("GET" | "HEAD", path) => ("404 Not Found", format!("there is nothing at {path}\n")),
        ("POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH", _) => {
            ("405 Method Not Allowed", format!("{method} is not allowed\n"))
        }
        _ => ("501 Not Implemented", format!("{method} is not implemented\n")),
    }
}
