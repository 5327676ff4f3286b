//! A request, as the server reads it.

use std::io::{BufRead, ErrorKind};

use httparse::{EMPTY_HEADER, Error, Header};

use super::framing::{UnknownCoding, framing};
use super::head::{HeadError, MAX_FIELDS, read_head};
use super::url::{after_scheme, is_authority, is_path};

/// A request. Its body is not read, because this server does not use it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, in the case in which it was sent: methods are case-sensitive.
    pub method: String,
    /// The path, without the query. It is `*` for a request about the whole server.
    pub path: String,
}

/// A request that is refused.
#[derive(Debug)]
pub struct Refusal {
    /// The status code and reason phrase of the response.
    pub status: &'static str,
    /// The cause.
    pub reason: String,
    /// Whether the method was HEAD, whose response has no body.
    pub is_head: bool,
}

impl std::error::Error for Refusal {}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.reason)
    }
}

const BAD_REQUEST: &str = "400 Bad Request";
const LONG_HEAD: &str = "431 Request Header Fields Too Large";

fn refusal(status: &'static str, reason: impl Into<String>) -> Refusal {
    Refusal { status, reason: reason.into(), is_head: false }
}

/// Reads the head of a request.
///
/// # Errors
/// A [`Refusal`] if the request is invalid: the server should send its status to the client.
/// Otherwise the connection failed, and there is no client to send a response to.
pub fn read_request(input: &mut impl BufRead) -> anyhow::Result<Request> {
    let head = read_head(input, true).map_err(|error| match error {
        HeadError::LongLine => refusal("414 URI Too Long", "the request line is too long").into(),
        HeadError::LongHead => refusal(LONG_HEAD, "the header section is too long").into(),
        HeadError::Incomplete => refusal(BAD_REQUEST, "the request is incomplete").into(),
        HeadError::Input(error) => match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::TimedOut => {
                refusal("408 Request Timeout", "no request in time").into()
            }
            _ => error,
        },
    })?;
    let is_head = head.starts_with(b"HEAD ");
    Ok(parse(&head).map_err(|refusal| Refusal { is_head, ..refusal })?)
}

fn parse(head: &[u8]) -> Result<Request, Refusal> {
    let mut headers = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(head).map_err(|error| match error {
        Error::Version if is_other_version(head) => {
            refusal("505 HTTP Version Not Supported", "this server supports HTTP/1.1 and 1.0")
        }
        Error::TooManyHeaders => refusal(LONG_HEAD, "too many header fields"),
        error => refusal(BAD_REQUEST, error.to_string()),
    })?;
    let (true, Some(method), Some(target), Some(minor_version)) =
        (parsed.is_complete(), request.method, request.path, request.version)
    else {
        return Err(refusal(BAD_REQUEST, "the head ends too early"));
    };
    if !has_valid_host(minor_version, request.headers) {
        return Err(refusal(BAD_REQUEST, "not exactly one valid Host"));
    }
    if let Err(error) = framing(minor_version, request.headers) {
        let is_unknown = error.is::<UnknownCoding>();
        let status = if is_unknown { "501 Not Implemented" } else { BAD_REQUEST };
        return Err(refusal(status, format!("{error:#}")));
    }
    let path = path(method, target).ok_or_else(|| refusal(BAD_REQUEST, "invalid target"))?;
    Ok(Request { method: method.to_owned(), path: path.to_owned() })
}

/// Returns whether the request line ends with the name of a version, `HTTP/2.0`.
fn is_other_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let words: Vec<_> = line.unwrap_or_default().trim_ascii_end().split(|it| *it == b' ').collect();
    matches!(words[..], [_, _, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// A request has exactly one valid field `Host`; only in HTTP/1.0 it may be missing (RFC 9112,
/// 3.2).
fn has_valid_host(minor_version: u8, headers: &[Header<'_>]) -> bool {
    let mut hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Host"));
    match (hosts.next(), hosts.next()) {
        (None, _) => minor_version == 0,
        (Some(host), None) => std::str::from_utf8(host.value).is_ok_and(is_authority),
        (Some(_), Some(_)) => false,
    }
}

/// Returns the path of a request target, which has one of four forms (RFC 9112, 3.2). `None` if it
/// is invalid.
fn path<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    let rest = match (method, target) {
        ("OPTIONS", "*") => return Some("*"),
        ("CONNECT", authority) => return is_authority(authority).then_some("*"),
        (_, target) => match after_scheme(target) {
            // The absolute form. Its authority counts, not the field `Host`.
            Some(rest) => {
                let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                if authority.is_empty() || !is_authority(authority) {
                    return None;
                }
                rest
            }
            None if target.starts_with('/') => target,
            None => return None,
        },
    };
    let path = rest.split('?').next().filter(|path| !path.is_empty()).unwrap_or("/");
    is_path(rest).then_some(path)
}
