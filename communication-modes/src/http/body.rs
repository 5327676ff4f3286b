//! The body of a response.

use std::io::{BufRead, Read};

use anyhow::{Context, bail, ensure};
use httparse::{EMPTY_HEADER, Status};

use super::framing::Framing;
use super::head::{HeadError, MAX_FIELDS, MAX_LINE, read_head};

/// Reads the body up to its end.
///
/// # Errors
/// The connection failed or was closed before the end of the body, or the chunks are invalid.
pub fn read_body(input: &mut impl BufRead, framing: Framing) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    match framing {
        Framing::Length(size) => read_exactly(input, size, &mut body)?,
        Framing::Chunked => read_chunks(input, &mut body)?,
        // FIN ends the body. After an RST, `read` fails.
        Framing::Unmarked => drop(input.read_to_end(&mut body)?),
    }
    Ok(body)
}

/// Reads `size` bytes. The peer chooses `size`, so memory is allocated as the bytes arrive.
fn read_exactly(input: &mut impl Read, size: u64, body: &mut Vec<u8>) -> anyhow::Result<()> {
    let count = input.take(size).read_to_end(body)?;
    ensure!(count as u64 == size, "the connection was closed in the middle of the body");
    Ok(())
}

fn read_chunks(input: &mut impl BufRead, body: &mut Vec<u8>) -> anyhow::Result<()> {
    loop {
        match read_chunk_size(input)? {
            0 => return read_trailer(input),
            size => read_exactly(input, size, body)?,
        }
        let mut end = Vec::new();
        read_exactly(input, 2, &mut end)?;
        ensure!(end == b"\r\n", "a chunk is longer than its size");
    }
}

fn read_chunk_size(input: &mut impl BufRead) -> anyhow::Result<u64> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    ensure!(line.ends_with(b"\n"), "the connection was closed in the middle of the body");
    // httparse takes a size without digits for 0, which would end the body. It also lets control
    // characters pass in an extension, where another recipient could see the end of the line.
    ensure!(line[0].is_ascii_hexdigit(), "a chunk without a size");
    let extension = line.strip_suffix(b"\r\n").unwrap_or(&line);
    let has_control = extension.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    ensure!(!has_control, "a chunk size with control characters");
    match httparse::parse_chunk_size(&line) {
        Ok(Status::Complete((length, size))) if length == line.len() => Ok(size),
        _ => bail!("a chunk without a size"),
    }
}

/// Reads the trailer section, and discards its fields, because this client needs none of them.
fn read_trailer(input: &mut impl BufRead) -> anyhow::Result<()> {
    let trailer = read_head(input, false).map_err(|error| match error {
        HeadError::Input(error) => error,
        _ => anyhow::anyhow!("the trailer section is too long or incomplete"),
    })?;
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    httparse::parse_headers(&trailer, &mut fields).context("the trailer section is invalid")?;
    Ok(())
}
