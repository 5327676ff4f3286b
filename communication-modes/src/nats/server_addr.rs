//! The address of a server, as users of NATS write it.

use anyhow::ensure;

/// The port of a server whose address has none.
const DEFAULT_PORT: u16 = 4222;

/// Returns `HOST:PORT` for `[nats://]HOST[:PORT]`.
///
/// # Errors
/// The address asks for TLS or for a login, which the client does not support.
pub fn server_addr(server: &str) -> anyhow::Result<String> {
    let addr = match server.split_once("://") {
        Some((scheme, addr)) => {
            ensure!(scheme.eq_ignore_ascii_case("nats"), "only nats:// is supported");
            addr.strip_suffix('/').unwrap_or(addr)
        }
        None => server,
    };
    ensure!(!addr.contains('@'), "a user name or a token is not supported");
    // A colon can also be part of an IPv6 address, `[::1]`.
    let has_port = addr.rsplit(']').next().is_some_and(|end| end.contains(':'));
    Ok(if has_port { addr.to_owned() } else { format!("{addr}:{DEFAULT_PORT}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_port_may_be_missing() -> anyhow::Result<()> {
        for (server, addr) in [
            ("a", "a:4222"),
            ("a:1", "a:1"),
            ("nats://a", "a:4222"),
            ("NATS://a:1/", "a:1"),
            ("[::1]", "[::1]:4222"),
            ("nats://[::1]:1", "[::1]:1"),
        ] {
            assert_eq!(server_addr(server)?, addr, "{server}");
        }
        for server in ["tls://a", "http://a", "nats://user:password@a:1", "token@a"] {
            assert!(server_addr(server).is_err(), "{server}");
        }
        Ok(())
    }
}
