//! The head of a message: the lines up to the empty line.

use std::io::{BufRead, Read};

use anyhow::anyhow;

/// The longest line in bytes. RFC 9112, 3 recommends at least 8000, and 8 KiB is usual.
pub const MAX_LINE: usize = 8 << 10;
/// The longest head in bytes.
pub const MAX_HEAD: usize = 16 << 10;
/// The most header fields of a message, or of a trailer section.
pub const MAX_FIELDS: usize = 100;

/// The reason why a head could not be read.
#[derive(Debug)]
pub enum HeadError {
    /// The first line is longer than [`MAX_LINE`].
    LongLine,
    /// The head is longer than [`MAX_HEAD`].
    LongHead,
    /// The connection was closed in the middle of the head.
    Incomplete,
    /// The connection was closed before the first byte, or failed.
    Input(anyhow::Error),
}

/// Reads a head with its empty line. Lines end with CRLF or with LF alone (RFC 9112, 2.2).
///
/// Empty lines before the head are skipped if `skip_empty_lines` is set. A server should do that,
/// because old clients send an extra CRLF after a request.
pub fn read_head(input: &mut impl BufRead, skip_empty_lines: bool) -> Result<Vec<u8>, HeadError> {
    let mut head = Vec::new();
    let mut skipped = 0;
    loop {
        let start = head.len();
        let is_first = start == 0;
        let limit = if is_first { MAX_LINE } else { MAX_HEAD - start };
        let mut line = input.by_ref().take(limit as u64 + 1);
        let read = line.read_until(b'\n', &mut head);
        if read.map_err(|error| HeadError::Input(error.into()))? > limit {
            return Err(if is_first { HeadError::LongLine } else { HeadError::LongHead });
        }
        match &head[start..] {
            [] if is_first && skipped == 0 => {
                return Err(HeadError::Input(anyhow!("the connection was closed")));
            }
            b"\n" | b"\r\n" if is_first && skip_empty_lines => {
                skipped += head.len();
                head.clear();
                if skipped > MAX_LINE {
                    return Err(HeadError::LongHead);
                }
            }
            b"\n" | b"\r\n" => return Ok(head),
            line if line.ends_with(b"\n") => {}
            _ => return Err(HeadError::Incomplete),
        }
    }
}
