//! Questions of one line, and answers of several lines: how the nodes of `decentralised` call each other.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{DeadlineStream, connect, one_line, read_line};

/// The longest question in bytes.
const MAX_QUESTION: usize = 1024;
/// The longest answer in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The empty line that ends an answer. Without it, the caller could not distinguish a complete
/// answer from one that was cut off when the node died.
pub const END_OF_ANSWER: &str = "\n";

/// Sends `question`, and returns the lines of the answer.
///
/// # Errors
/// The question has a control character, the connection failed, or the answer was not complete
/// within `timeout` (kind `TimedOut`).
pub fn ask(addr: &str, question: &str, timeout: Duration) -> io::Result<String> {
    let invalid = |error| io::Error::new(ErrorKind::InvalidInput, error);
    one_line("the question", question).map_err(|error| invalid(error.to_string()))?;
    let deadline = Instant::now() + timeout;
    let stream = connect(addr, deadline)?;
    let mut stream = DeadlineStream::new(&stream, deadline);
    stream.write_all(format!("{question}\n").as_bytes())?;
    read_answer(&mut BufReader::new(stream).take(MAX_ANSWER as u64))
}

fn read_answer(input: &mut impl BufRead) -> io::Result<String> {
    let mut answer = String::new();
    loop {
        let start = answer.len();
        input.read_line(&mut answer)?;
        match &answer[start..] {
            END_OF_ANSWER => {
                answer.truncate(start);
                return Ok(answer);
            }
            line if line.ends_with('\n') => {}
            _ => {
                let reason = "the answer is incomplete";
                return Err(io::Error::new(ErrorKind::UnexpectedEof, reason));
            }
        }
    }
}

/// Reads the question of a client, which has `timeout` to send it.
///
/// # Errors
/// The connection failed, or the question is incomplete or too long.
pub fn read_question(stream: &TcpStream, timeout: Duration) -> anyhow::Result<String> {
    let stream = DeadlineStream::new(stream, Instant::now() + timeout);
    read_line(&mut BufReader::new(stream), MAX_QUESTION)?.context("no question")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_an_empty_line() -> io::Result<()> {
        assert_eq!(read_answer(&mut &b"a\nb\n\nmore"[..])?, "a\nb\n");
        assert_eq!(read_answer(&mut &b"\n"[..])?, "");
        for cut in ["", "a", "a\n", "a\nb"] {
            assert!(read_answer(&mut cut.as_bytes()).is_err(), "{cut:?}");
        }
        Ok(())
    }
}
