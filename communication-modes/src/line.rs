//! Text in line protocols, and on terminals.

use std::io::{self, BufRead, ErrorKind, Read};

use anyhow::{Context, bail, ensure};

/// The error of a line that is longer than this number of bytes.
#[derive(Debug)]
pub struct LineTooLong(pub usize);

impl std::error::Error for LineTooLong {}

impl std::fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a line is longer than {} bytes", self.0)
    }
}

/// Reads one line, and returns it without its `\n` or `\r\n`. Returns `None` at the end of the
/// input.
///
/// An unterminated last line is an error: the connection was lost in the middle of it. The part
/// that has arrived can look like a complete line. For example, `balance 10` is a part of `balance
/// 1000`.
///
/// # Errors
/// An error of the input, of type [`io::Error`]; its kind is `UnexpectedEof` for an unterminated
/// line. [`LineTooLong`] if the line is longer than `limit` bytes. Or the line is not UTF-8.
pub fn read_line(input: &mut impl BufRead, limit: usize) -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    // One byte more than the limit shows whether the line is too long.
    if input.by_ref().take(limit as u64 + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() > limit {
        bail!(LineTooLong(limit));
    }
    if line.pop() != Some(b'\n') {
        let reason = "the connection was closed in the middle of a line";
        return Err(io::Error::new(ErrorKind::UnexpectedEof, reason).into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(String::from_utf8(line).context("a line is not UTF-8")?))
}

/// Checks a text of the user that becomes part of a line of a protocol. The error message calls the
/// text `name`.
///
/// A line break in the text would end the line. The server would read the rest of the text as the
/// next line.
///
/// # Errors
/// The text contains a control character.
pub fn one_line<'a>(name: &str, text: &'a str) -> anyhow::Result<&'a str> {
    ensure!(!text.contains(char::is_control), "{name} {text:?} has a control character");
    Ok(text)
}

/// Returns a text from the network in a form that is safe to print. Characters that would control
/// the terminal (escape sequences, line breaks, bidirectional overrides) are written like `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::new();
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => printable.push(c), // which `escape_debug` escapes as well
            _ => printable.extend(c.escape_debug()),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut input: &[u8]) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input, 5)? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn lines_end_with_lf_or_crlf() -> anyhow::Result<()> {
        assert_eq!(read_all(b"a\nb\r\n\n\r\n123\r\n")?, ["a", "b", "", "", "123"]);
        Ok(())
    }

    #[test]
    fn a_line_that_is_cut_too_long_or_not_utf8_is_an_error() {
        for (input, part) in
            [(&b"a\nb"[..], "middle of a line"), (b"12345\n", "longer"), (b"\xff\n", "UTF-8")]
        {
            let error = read_all(input).expect_err("an error");
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(printable("it's \"ä\" \\n 中"), "it's \"ä\" \\n 中");
        assert_eq!(printable("\x1b[2J\u{9b}2J\n\u{202e}"), "\\u{1b}[2J\\u{9b}2J\\n\\u{202e}");
    }
}
