//! Where a message body ends: the rules of RFC 9112, 6.

use anyhow::{Context, bail, ensure};
use httparse::Header;

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`: so many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`: a chunk of length 0.
    Chunked,
    /// Neither: a request has no body, and the body of a response ends with the connection.
    Unmarked,
}

/// The body is encoded with another transfer coding before it is split into chunks.
#[derive(Debug)]
pub struct UnknownCoding;

impl std::error::Error for UnknownCoding {}

impl std::fmt::Display for UnknownCoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a Transfer-Encoding other than chunked is not supported")
    }
}

/// Returns how the end of the body of a message of version HTTP/1.`minor_version` is marked.
///
/// # Errors
/// The framing is faulty or ambiguous, or the body has a coding before chunked: [`UnknownCoding`].
pub fn framing(minor_version: u8, headers: &[Header<'_>]) -> anyhow::Result<Framing> {
    let codings = list(headers, "Transfer-Encoding");
    let lengths = list(headers, "Content-Length");
    if codings.is_empty() {
        return if lengths.is_empty() {
            Ok(Framing::Unmarked)
        } else {
            Ok(Framing::Length(length(&lengths)?))
        };
    }
    // A party that implements only HTTP/1.0 ignores Transfer-Encoding (6.1).
    ensure!(minor_version == 1, "a Transfer-Encoding in HTTP/1.0");
    // By the rules Transfer-Encoding overrides Content-Length, but such a message "ought to be
    // handled as an error" (6.3): a party in between may have used the length.
    ensure!(lengths.is_empty(), "both a Transfer-Encoding and a Content-Length");
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let (last, others) = codings.split_last().context("no coding")?;
    // Without chunked at the end, the end of a request is unknown, so it must get a 400 (6.3).
    ensure!(is_chunked(last), "chunked is not the last Transfer-Encoding");
    ensure!(!others.iter().any(is_chunked), "chunked is applied twice");
    if !others.is_empty() {
        bail!(UnknownCoding);
    }
    Ok(Framing::Chunked)
}

/// Several lengths are accepted if they are all the same (6.3). A length consists of digits only:
/// Rust's `parse` would take `+5` as well.
fn length(lengths: &[&[u8]]) -> anyhow::Result<u64> {
    let (first, others) = lengths.split_first().context("no length")?;
    let digits = std::str::from_utf8(first).ok().filter(|it| it.bytes().all(is_digit));
    let length = digits.and_then(|digits| digits.parse().ok());
    let length = length.context("a Content-Length that is not a number")?;
    ensure!(others.iter().all(|other| other == first), "Content-Lengths that differ");
    Ok(length)
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

/// Returns the elements of the comma-separated lists in all header fields named `name`.
fn list<'a>(headers: &[Header<'a>], name: &str) -> Vec<&'a [u8]> {
    let fields = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let elements = fields.flat_map(|field| field.value.split(|byte| *byte == b','));
    elements.map(<[u8]>::trim_ascii).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(minor_version: u8, fields: &[(&'static str, &'static str)]) -> anyhow::Result<Framing> {
        let header = |&(name, value): &(&'static str, &'static str)| Header {
            name,
            value: value.as_bytes(),
        };
        framing(minor_version, &fields.iter().map(header).collect::<Vec<_>>())
    }

    const LENGTH: &str = "Content-Length";
    const CODING: &str = "transfer-encoding";

    #[test]
    fn the_end_is_marked_in_three_ways() -> anyhow::Result<()> {
        assert_eq!(of(1, &[("A", "b")])?, Framing::Unmarked);
        assert_eq!(of(1, &[(LENGTH, "5")])?, Framing::Length(5));
        assert_eq!(of(0, &[(LENGTH, "18446744073709551615")])?, Framing::Length(u64::MAX));
        assert_eq!(of(1, &[(LENGTH, "5, 5"), (LENGTH, "5")])?, Framing::Length(5));
        assert_eq!(of(1, &[(CODING, "Chunked")])?, Framing::Chunked);
        Ok(())
    }

    #[test]
    fn what_is_faulty_or_ambiguous_is_an_error() {
        for length in ["", "+5", "-5", "5 5", "0x5", "5,", ",5", "five", "18446744073709551616"] {
            assert!(of(1, &[(LENGTH, length)]).is_err(), "{length:?}");
        }
        for codings in ["", "gzip", "xchunked", "gzip, chunked", "chunked, gzip", "chunked,chunked"]
        {
            assert!(of(1, &[(CODING, codings)]).is_err(), "{codings:?}");
        }
        for fields in [
            &[(LENGTH, "5"), (LENGTH, "6")][..],
            &[(LENGTH, "5, 6")],
            &[(LENGTH, "5"), (LENGTH, "05")],
            &[(CODING, "chunked"), (CODING, "chunked")],
            &[(CODING, "chunked"), (CODING, "gzip")],
            &[(CODING, "chunked"), (LENGTH, "5")],
        ] {
            assert!(of(1, fields).is_err(), "{fields:?}");
        }
        assert!(of(0, &[(CODING, "chunked")]).is_err());
    }

    #[test]
    fn a_coding_that_is_unknown_is_told_from_one_that_is_faulty() {
        for (codings, is_unknown) in
            [("gzip, chunked", true), ("gzip", false), ("chunked, gzip", false)]
        {
            let error = of(1, &[(CODING, codings)]).expect_err("an error");
            assert_eq!(error.is::<UnknownCoding>(), is_unknown, "{codings}");
        }
    }
}
