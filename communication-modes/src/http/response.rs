//! A response, as the client reads it.

use std::io::BufRead;

use anyhow::{Context, bail, ensure};
use httparse::{EMPTY_HEADER, ParserConfig};

use super::body::read_body;
use super::framing::framing;
use super::head::{HeadError, MAX_FIELDS, MAX_HEAD, MAX_LINE, read_head};
use crate::printable;

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status line, as it can be shown on a terminal: `HTTP/1.1 200 OK`.
    pub status: String,
    /// The body, without the chunk sizes.
    pub body: Vec<u8>,
}

/// Reads the response to a GET request.
///
/// # Errors
/// The connection failed, or the response is incomplete, invalid or ambiguous.
pub fn read_response(input: &mut impl BufRead) -> anyhow::Result<Response> {
    loop {
        let head = read_head(input, false).map_err(|error| match error {
            HeadError::LongLine => anyhow::anyhow!("a line is longer than {MAX_LINE} bytes"),
            HeadError::LongHead => anyhow::anyhow!("the head is longer than {MAX_HEAD} bytes"),
            HeadError::Incomplete => {
                anyhow::anyhow!("the connection was closed in the middle of the head")
            }
            HeadError::Input(error) => error,
        })?;
        let mut headers = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut headers);
        // A client must read a line break in a folded field (obs-fold, 5.2) as a space. The fields
        // that we use are split and trimmed, which removes the line break as it would remove a
        // space.
        let parsed = ParserConfig::default()
            .allow_obsolete_multiline_headers_in_responses(true)
            .parse_response(&mut response, &head)
            .context("this is not an HTTP response")?;
        let (true, Some(code), Some(minor_version)) =
            (parsed.is_complete(), response.code, response.version)
        else {
            bail!("this is not an HTTP response");
        };
        let reason = printable(response.reason.unwrap_or_default());
        let status = format!("HTTP/1.{minor_version} {code:03} {reason}").trim_end().to_owned();
        match code {
            101 => bail!("the server switched to another protocol"),
            // An interim response. The final response follows.
            100..200 => {}
            // These never have a body, whatever the header fields say (RFC 9112, 6.3).
            204 | 304 => return Ok(Response { status, body: Vec::new() }),
            _ => {
                ensure!(code >= 100, "this is not an HTTP response");
                let framing = framing(minor_version, response.headers)?;
                return Ok(Response { status, body: read_body(input, framing)? });
            }
        }
    }
}
