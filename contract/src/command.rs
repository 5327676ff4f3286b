//! The command that starts a server, with placeholders for the address.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, ensure};

/// A command with placeholders.
#[derive(Clone, Debug)]
pub struct Command {
    words: Vec<OsString>,
    listens_on: ListensOn,
}

/// The address on which the server will listen.
#[derive(Clone, Copy, Debug)]
enum ListensOn {
    /// A free port of this address, another one for each start.
    FreePort(IpAddr),
    /// Always this address.
    Fixed(SocketAddr),
}

/// What is replaced in the words of a command.
pub const PLACEHOLDERS: [&str; 3] = ["{addr}", "{host}", "{port}"];

/// Ports below the range from which the kernel takes the ports of clients (32768 to 60999 by
/// default, `ip_local_port_range`), so that no client has taken the port before the server does.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

impl Command {
    /// A command whose placeholders give it the address on which to listen.
    pub fn new(words: Vec<OsString>, host: IpAddr) -> Result<Self> {
        ensure!(!words.is_empty(), "there is no command");
        let has_port = words.iter().any(|word| {
            ["{addr}", "{port}"].iter().any(|it| find(word.as_bytes(), it.as_bytes()).is_some())
        });
        ensure!(
            has_port,
            "nothing in the command tells the server where to listen: write {{addr}} or {{port}} \
             where its address belongs, or say where it listens anyway with --addr"
        );
        Ok(Self { words, listens_on: ListensOn::FreePort(host) })
    }

    /// A command that always listens on this address.
    pub fn fixed(words: Vec<OsString>, address: SocketAddr) -> Result<Self> {
        ensure!(!words.is_empty(), "there is no command");
        Ok(Self { words, listens_on: ListensOn::Fixed(address) })
    }

    /// Whether several instances can run at the same time.
    #[must_use]
    pub fn has_free_port(&self) -> bool {
        matches!(self.listens_on, ListensOn::FreePort(_))
    }

    /// The words, as the user has written them.
    #[must_use]
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// The program, its arguments, and the address on which it will listen.
    #[must_use]
    pub fn instance(&self) -> (OsString, Vec<OsString>, SocketAddr) {
        let address = match self.listens_on {
            ListensOn::FreePort(host) => SocketAddr::new(host, free_port(host)),
            ListensOn::Fixed(address) => address,
        };
        self.instance_at(address)
    }

    /// The same, for a given address.
    #[must_use]
    pub fn instance_at(&self, address: SocketAddr) -> (OsString, Vec<OsString>, SocketAddr) {
        let (program, arguments) = self.with_values(&[
            address.to_string(),
            address.ip().to_string(),
            address.port().to_string(),
        ]);
        (program, arguments, address)
    }

    /// The program and its arguments, with a host name instead of an IP address.
    #[must_use]
    pub fn with_host_name(&self, name: &str) -> (OsString, Vec<OsString>) {
        let port = self.instance().2.port();
        self.with_values(&[format!("{name}:{port}"), name.to_owned(), port.to_string()])
    }

    /// Whether it gives the server a host, and not only a port.
    #[must_use]
    pub fn has_host(&self) -> bool {
        let contains =
            |word: &OsString, part: &str| find(word.as_bytes(), part.as_bytes()).is_some();
        self.words.iter().any(|word| contains(word, "{addr}") || contains(word, "{host}"))
    }

    fn with_values(&self, values: &[String; 3]) -> (OsString, Vec<OsString>) {
        let mut words = self.words.iter().map(|word| fill_in(word, values));
        let program = words.next().unwrap_or_default();
        (program, words.collect())
    }
}

/// A port that nothing uses, and that was not returned before.
///
/// Each start gets a new port: a server that does not set `SO_REUSEADDR` cannot bind a port again
/// while a connection of the last start is in `TIME_WAIT`.
fn free_port(host: IpAddr) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = LAST_PORT - FIRST_PORT;
    // Two instances of this program should not try the same ports.
    let _ = NEXT.compare_exchange(0, fastrand::u16(1..count), Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..count {
        let port = FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % count;
        if TcpListener::bind((host, port)).is_ok() {
            return port;
        }
    }
    // All are taken: the server will say so when it starts.
    FIRST_PORT
}

fn fill_in(word: &OsStr, values: &[String; 3]) -> OsString {
    let mut bytes = word.as_bytes().to_vec();
    for (placeholder, value) in PLACEHOLDERS.iter().zip(values) {
        while let Some(start) = find(&bytes, placeholder.as_bytes()) {
            bytes.splice(start..start + placeholder.len(), value.bytes());
        }
    }
    OsString::from_vec(bytes)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn fills_in_the_address() -> Result<()> {
        let host = Ipv4Addr::LOCALHOST.into();
        let command =
            Command::new(words(&["server", "--at={addr}", "{host}", "{port}{port}"]), host)?;
        let (program, arguments, address) = command.instance();
        let port = address.port();
        assert_eq!(program, "server");
        assert_eq!(
            arguments,
            words(&[&format!("--at=127.0.0.1:{port}"), "127.0.0.1", &format!("{port}{port}")])
        );
        assert_ne!(command.instance().2.port(), port);
        Ok(())
    }

    #[test]
    fn needs_a_place_for_the_address() {
        let host = Ipv4Addr::LOCALHOST.into();
        assert!(Command::new(words(&["server", "{host}"]), host).is_err());
        assert!(Command::new(Vec::new(), host).is_err());
        let address = SocketAddr::new(host, 7000);
        assert!(Command::fixed(words(&["server"]), address).is_ok());
    }
}
