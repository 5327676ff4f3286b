//! The server of the mode `callback`: it works on many requests of a connection at the same time.
//!
//! A request is the line `ID MS TEXT`. The server works on it for MS milliseconds, at most 2000.
//! Then it sends the answer: the line `ID TEXT`, with the text reversed. The answers can have
//! another order than the requests. The ID says to which request an answer belongs.

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use common::lock;

use crate::read_line;

/// Requests of one connection that the server works on at the same time.
pub const MAX_IN_FLIGHT: usize = 64;
/// The longest request in bytes, with its line end.
pub const MAX_REQUEST: usize = 4096;
/// The longest work on a request. A longer time is reduced to this.
pub const MAX_WORK: Duration = Duration::from_secs(2);

/// Serves one connection until the client has finished sending, and answers what it has sent.
///
/// # Errors
/// A request is invalid, or the connection failed.
pub fn converse(stream: &TcpStream) -> anyhow::Result<()> {
    // The channel is a semaphore: with MAX_IN_FLIGHT requests in it, `send` blocks. The server then
    // does not read the next request, and at some point the client cannot send: this is the
    // backpressure.
    let (begin, end) = mpsc::sync_channel(MAX_IN_FLIGHT);
    let (end, output) = (Mutex::new(end), Mutex::new(stream));
    let work = |request: Request| {
        thread::sleep(request.work);
        let reversed: String = request.text.chars().rev().collect();
        let answer = format!("{} {reversed}\n", request.id);
        if lock(&output).write_all(answer.as_bytes()).is_err() {
            let _ = stream.shutdown(Shutdown::Both); // ends the loop below
        }
        let _ = lock(&end).recv();
    };
    thread::scope(|scope| {
        let mut input = BufReader::new(stream);
        while let Some(line) = read_line(&mut input, MAX_REQUEST)? {
            let request = parse(&line).with_context(|| format!("invalid request {line:?}"))?;
            begin.send(())?;
            thread::Builder::new().spawn_scoped(scope, || work(request))?;
        }
        Ok(())
    })
}

struct Request {
    id: u64,
    work: Duration,
    text: String,
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.splitn(3, ' ');
    let id = words.next()?.parse().ok()?;
    let work = Duration::from_millis(words.next()?.parse().ok()?).min(MAX_WORK);
    Some(Request { id, work, text: words.next()?.to_owned() })
}
