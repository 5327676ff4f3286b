//! Mistake: the server closes a connection while the socket still has unread input.
//!
//! Symptom: a client that sends more than the server reads gets only part of the response, and
//! "Connection reset by peer". A common case is an HTTP server that answers a large upload with an
//! error: browsers do not show the error.
//!
//! Rule: close(2) on a socket with unread input sends RST instead of FIN (RFC 9293, 3.6.1), and RST
//! discards what is in the send buffer. Input that arrives after `close` has the same effect. The
//! remedy is a lingering close (RFC 9112, 9.6): shut down writing, discard input until EOF, with a
//! limit on bytes and on time, and then close.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin close-with-unread-input`
//! 2. In a second terminal: `(printf 'GET / HTTP/1.1\r\n\r\n'; yes | head -c 500K) | nc 127.0.0.1
//!    7000 | (sleep 1; wc -c)` prints a number below 1000000.
//!
//! Correct: the chat servers do a lingering close: see `common/src/chat.rs`. Its limits are
//! `LINGER_TIME` and `MAX_DISCARDED` in the same file.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use common::{ECHO_ADDR, run};
use pitfalls::threads;

/// Larger than what a client's socket takes before the client reads.
const BODY: usize = 1_000_000;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| threads(&addr, |stream| serve(&stream)))
}

/// Answers every HTTP request with a long page.
fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        match lines.next().transpose()? {
            None => return Ok(()),
            Some(line) if line.is_empty() => break, // the end of the head of the request
            Some(_) => {}
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {BODY}\r\n\r\n")?;
    stream.write_all(&vec![b'x'; BODY])?;
    Ok(()) // <- the mistake: the socket is closed, and may have unread input
}
