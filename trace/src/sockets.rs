//! Which client, or what else, is behind each file descriptor of a trace.

use std::collections::HashMap;

use crate::session::Session;
use crate::strace::{Event, Record, arguments};

/// The sockets of a trace, by the identity that strace prints for them (`socket:[17813284]`).
pub struct Sockets {
    /// The ports of the clients.
    ports: Vec<u16>,
    clients: HashMap<String, usize>,
    /// The clients by file descriptor number, which is what the server's log prints.
    numbers: HashMap<String, usize>,
    listener: Option<String>,
    /// The sockets of `socketpair`, each with the text of its pair.
    pairs: HashMap<String, String>,
}

impl Sockets {
    /// Reads the calls that say what a socket is: `accept`, `getpeername`, `listen` and
    /// `socketpair`. A socket may be used before the call that explains it.
    pub fn new(session: &Session, records: &[Record]) -> Self {
        let mut sockets = Self {
            ports: session.clients.iter().map(|client| client.port).collect(),
            clients: HashMap::new(),
            numbers: HashMap::new(),
            listener: None,
            pairs: HashMap::new(),
        };
        for record in records {
            if let Event::Call { name, args, result, .. } = &record.event {
                sockets.learn(name, args, result.as_deref());
            }
        }
        sockets
    }

    fn learn(&mut self, name: &str, args: &str, result: Option<&str>) {
        let parts = arguments(args);
        let first = parts.first().copied();
        match name {
            "accept" | "accept4" => self.learn_client(result, args),
            "getpeername" => self.learn_client(first, args),
            "listen" => self.listener = first.and_then(identity).map(str::to_owned),
            "socketpair" => {
                let pair = parts.last().copied().unwrap_or_default();
                for socket in pair.split(',').filter_map(identity) {
                    self.pairs.insert(socket.to_owned(), pair.to_owned());
                }
            }
            _ => {}
        }
    }

    fn learn_client(&mut self, socket: Option<&str>, args: &str) {
        let (Some(socket), Some(client)) = (socket, self.client_in_address(args)) else { return };
        if let (Some(identity), Some(number)) = (identity(socket), number_of(socket)) {
            self.clients.insert(identity.to_owned(), client);
            self.numbers.insert(number.to_owned(), client);
        }
    }

    /// Returns the client at the other end of a socket such as `8<socket:[17813284]>`.
    pub fn client(&self, descriptor: &str) -> Option<usize> {
        self.clients.get(identity(descriptor)?).copied()
    }

    /// Returns the client of a file descriptor number.
    pub fn client_of_number(&self, number: &str) -> Option<usize> {
        self.numbers.get(number).copied()
    }

    /// Returns the client whose address is among the arguments of a call.
    pub fn client_in_address(&self, args: &str) -> Option<usize> {
        let (_, rest) = args.split_once("htons(")?;
        self.client_at_port(rest.split(')').next()?)
    }

    /// Returns the client with this port.
    pub fn client_at_port(&self, port: &str) -> Option<usize> {
        let port: u16 = port.parse().ok()?;
        self.ports.iter().position(|&other| other == port)
    }

    /// Returns the socket pair to which a descriptor belongs.
    pub fn pair(&self, descriptor: &str) -> Option<&String> {
        self.pairs.get(identity(descriptor)?)
    }

    /// Says in a word what is behind a descriptor that belongs to no client.
    pub fn kind(&self, descriptor: &str) -> Option<&'static str> {
        const KINDS: [(&str, &str); 4] = [
            ("anon_inode:[signalfd]", "signalfd"),
            ("anon_inode:[eventfd]", "eventfd"),
            ("anon_inode:[timerfd]", "timerfd"),
            ("pipe:[", "pipe"),
        ];
        let identity = identity(descriptor)?;
        if self.listener.as_deref() == Some(identity) {
            return Some("listener");
        }
        if self.pairs.contains_key(identity) {
            return Some("pair");
        }
        let kind = KINDS.into_iter().find(|(start, _)| identity.starts_with(start));
        kind.map(|(_, kind)| kind)
    }
}

/// Returns what strace prints as the identity of a descriptor: `socket:[17813284]` for
/// `8<socket:[17813284]>`.
pub fn identity(descriptor: &str) -> Option<&str> {
    descriptor.split_once('<')?.1.split('>').next()
}

/// Returns the number of a descriptor: `8` for `8<socket:[17813284]>`.
fn number_of(descriptor: &str) -> Option<&str> {
    descriptor.split('<').next()
}
