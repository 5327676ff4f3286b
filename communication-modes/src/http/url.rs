//! `http://` URLs, and the parts of them that a request carries.

use anyhow::{Context, ensure};

/// The parts of an `http://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Host, and port if the URL has one: the value of the `Host` field.
    pub authority: String,
    /// Path and query: the request target.
    pub target: String,
}

impl Url {
    /// Parses an absolute URL. Its fragment is dropped, because it is not sent.
    ///
    /// # Errors
    /// It is not an `http://` URL, or has characters that must be percent-encoded.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = after_scheme(url).context("only http:// URLs are supported")?;
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        ensure!(!authority.contains('@'), "a user name in the URL is not supported");
        ensure!(!authority.is_empty(), "the URL has no host");
        ensure!(is_authority(authority), "invalid host or port {authority:?}");
        ensure!(is_path(target), "the URL has characters that must be percent-encoded");
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { authority: authority.to_owned(), target: format!("{slash}{target}") })
    }

    /// Returns `HOST:PORT`, with port 80 if the URL has none.
    #[must_use]
    pub fn addr(&self) -> String {
        let (host, port) = split_port(&self.authority);
        format!("{host}:{}", port.filter(|port| !port.is_empty()).unwrap_or("80"))
    }
}

/// Returns what follows `http://`. The case of a scheme does not matter.
pub fn after_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_at_checked("http://".len())?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

/// Returns whether `text` is a valid host with an optional port, as in the field `Host`.
pub fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_made_of(host, b"!$&'()*+,;="),
    };
    // A port is a number without a sign, or is empty.
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && (port.is_empty() || port.parse::<u16>().is_ok())
    };
    is_host && port.is_none_or(is_port)
}

/// Returns whether `text` is a valid path with an optional query.
pub fn is_path(text: &str) -> bool {
    is_made_of(text, b"!$&'()*+,;=:@/?")
}

/// The last colon separates the port, unless it belongs to an IPv6 address (`[::1]`).
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Returns whether `text` has only unreserved characters, percent-encoded bytes and `others`
/// (RFC 3986, 2).
fn is_made_of(text: &str, others: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_allowed = match byte {
            b'%' => {
                let is_hex = |byte: Option<u8>| byte.is_some_and(|it| it.is_ascii_hexdigit());
                is_hex(bytes.next()) && is_hex(bytes.next())
            }
            b'-' | b'.' | b'_' | b'~' => true,
            _ => byte.is_ascii_alphanumeric() || others.contains(&byte),
        };
        if !is_allowed {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_target() -> anyhow::Result<()> {
        for (url, authority, addr, target) in [
            ("http://a", "a", "a:80", "/"),
            ("HTTP://a:/", "a:", "a:80", "/"),
            ("http://a.b:8080/c/d?e=f#g", "a.b:8080", "a.b:8080", "/c/d?e=f"),
            ("http://a?b", "a", "a:80", "/?b"),
            ("http://[::1]/", "[::1]", "[::1]:80", "/"),
            ("http://[::1]:90", "[::1]:90", "[::1]:90", "/"),
            ("http://a/%c3%A4", "a", "a:80", "/%c3%A4"),
        ] {
            let parsed = Url::parse(url)?;
            assert_eq!((&parsed.authority[..], &parsed.target[..]), (authority, target), "{url}");
            assert_eq!(parsed.addr(), addr, "{url}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_sent_as_it_is_is_an_error() {
        for url in [
            "a",
            "https://a",
            "http://",
            "http:///b",
            "http://a b/",
            "http://a/b c",
            "http://a/\r\nX: y",
            "http://a/ä",
            "http://a/%zz",
            "http://a/%4",
            "http://u:p@a/",
            "http://a:port/",
            "http://a:+80/",
            "http://a:99999/",
            "http://[::1/",
            "http://[a]/",
        ] {
            assert!(Url::parse(url).is_err(), "{url}");
        }
    }
}
