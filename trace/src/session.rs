//! The session: what the two clients did to the server, and when.
//!
//! Every server gets the same session, so that the figures can be compared. A recording begins
//! with the session, as comment lines that strace could not have written.

use anyhow::{Context, Result};

use crate::strace::Nanos;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub parts: Vec<Part>,
    pub clients: Vec<Client>,
    pub end: Nanos,
}

/// A part of the session, which gets a panel of the figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub start: Nanos,
    pub title: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub name: char,
    pub port: u16,
    pub actions: Vec<Action>,
}

/// One system call of a client, from before to after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub start: Nanos,
    pub end: Nanos,
    pub kind: ActionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKind {
    Connect,
    Send(u64),
    Receive(u64),
    Disconnect,
}

impl Action {
    /// The time from which the action counts: a client has received bytes when its call returns,
    /// and the server can see what a client does as soon as the call begins.
    pub fn at(&self) -> Nanos {
        if matches!(self.kind, ActionKind::Receive(_)) { self.end } else { self.start }
    }
}

impl Session {
    /// The time at which the first part began.
    pub fn start(&self) -> Nanos {
        self.parts.first().map_or(0, |part| part.start)
    }

    /// The time at which part number `index` ended.
    pub fn part_end(&self, index: usize) -> Nanos {
        self.parts.get(index + 1).map_or(self.end, |next| next.start)
    }

    /// The actions of all clients.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.clients.iter().flat_map(|client| &client.actions)
    }

    /// A measure of how busy the machine was. The less, the better: whatever delays the server
    /// makes the session longer.
    ///
    /// The reply to the first message counts most, because the comparison shows it.
    pub fn delay(&self) -> Nanos {
        const WEIGHT: Nanos = 20;
        let sent = self.actions().filter(|action| matches!(action.kind, ActionKind::Send(_)));
        let first_sent = sent.map(Action::at).min();
        // Any client's: in the chat, B receives what A sends. What came before is the greeting.
        let received = self.actions().filter(|it| matches!(it.kind, ActionKind::Receive(_)));
        let reply = first_sent.and_then(|sent| {
            let first = received.map(Action::at).filter(|&at| at > sent).min()?;
            Some(first - sent)
        });
        self.end - self.start() + WEIGHT * reply.unwrap_or(0)
    }

    /// Returns the session as text, which [`Session::from_text`] reads.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Part { start, title } in &self.parts {
            text += &format!("# part {start} {title}\n");
        }
        for Client { name, port, actions } in &self.clients {
            text += &format!("# client {name} {port}\n");
            for Action { start, end, kind } in actions {
                let kind = match kind {
                    ActionKind::Connect => "connect".to_owned(),
                    ActionKind::Send(bytes) => format!("send {bytes}"),
                    ActionKind::Receive(bytes) => format!("receive {bytes}"),
                    ActionKind::Disconnect => "disconnect".to_owned(),
                };
                text += &format!("# {name} {start} {end} {kind}\n");
            }
        }
        text + &format!("# end {}\n", self.end)
    }

    /// Reads a session from a recording, and skips the lines of strace.
    ///
    /// # Errors
    /// Fails for a line that begins like one of a session and is none.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut session = Self { parts: Vec::new(), clients: Vec::new(), end: 0 };
        for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
            session
                .read_line(line)
                .with_context(|| format!("not a line of a session: {line:?}"))?;
        }
        Ok(session)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let (first, rest) = line.split_once(' ')?;
        match first {
            "part" => {
                let (start, title) = rest.split_once(' ')?;
                self.parts.push(Part { start: start.parse().ok()?, title: title.to_owned() });
            }
            "client" => {
                let (name, port) = rest.split_once(' ')?;
                let name = name.chars().next()?;
                let port = port.parse().ok()?;
                self.clients.push(Client { name, port, actions: Vec::new() });
            }
            "end" => self.end = rest.parse().ok()?,
            name => {
                let client =
                    self.clients.iter_mut().find(|client| name.starts_with(client.name))?;
                client.actions.push(read_action(rest)?);
            }
        }
        Some(())
    }
}

fn read_action(text: &str) -> Option<Action> {
    let mut words = text.split(' ');
    let start = words.next()?.parse().ok()?;
    let end = words.next()?.parse().ok()?;
    let name = words.next()?;
    let bytes = words.next().and_then(|word| word.parse().ok());
    let kind = match name {
        "connect" => ActionKind::Connect,
        "send" => ActionKind::Send(bytes?),
        "receive" => ActionKind::Receive(bytes?),
        "disconnect" => ActionKind::Disconnect,
        _ => return None,
    };
    Some(Action { start, end, kind })
}
