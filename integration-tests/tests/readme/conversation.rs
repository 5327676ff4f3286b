//! Checks a session with `nc`: sends the lines that the user types, and expects the others.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use contract::{ChatClient, Client, TIMEOUT};
use regex::Regex;

/// Whether the lines are a session with a chat server.
pub fn is_chat(lines: &[String]) -> bool {
    lines.first().is_some_and(|line| line.starts_with("* you are "))
}

/// Checks that each line that the user types comes back.
pub fn echo(address: SocketAddr, lines: &[String]) -> Result<()> {
    let client = Client::connect_to(address)?;
    for (typed, echo) in pairs(lines)? {
        client.send(format!("{typed}\n").as_bytes())?;
        let line = client.line()?.context("the server closed the connection")?;
        ensure!(line == *echo, "the reply to {typed:?} is {line:?}, not {echo:?}");
    }
    client.finish()
}

/// Does the same as [`echo`] with `nc -u`.
pub fn echo_datagrams(address: SocketAddr, lines: &[String]) -> Result<()> {
    let peer = UdpSocket::bind("127.0.0.1:0")?;
    peer.connect(address)?;
    peer.set_read_timeout(Some(TIMEOUT))?;
    for (typed, echo) in pairs(lines)? {
        peer.send(format!("{typed}\n").as_bytes())?;
        let mut answer = [0; 2000];
        let count = peer.recv(&mut answer).with_context(|| format!("no reply to {typed:?}"))?;
        let line = String::from_utf8_lossy(&answer[..count]);
        ensure!(line == format!("{echo}\n"), "the reply to {typed:?} is {line:?}, not {echo:?}");
    }
    Ok(())
}

fn pairs(lines: &[String]) -> Result<impl Iterator<Item = (&String, &String)>> {
    ensure!(lines.len() % 2 == 0, "the last line has no echo");
    Ok(lines.chunks(2).map(|pair| (&pair[0], &pair[1])))
}

/// Plays a chat as one client sees it. The user of this client has typed the lines that begin with
/// `<`, and those that cannot come from the server. The other clients do what this client sees them
/// do, and must receive what it sends.
pub fn chat(address: SocketAddr, lines: &[String]) -> Result<()> {
    let (welcome, lines) = lines.split_first().context("the session is empty")?;
    let numbers = Regex::new(r"^\* you are (guest[0-9]+); ([0-9]+) others? here;")?;
    let numbers =
        numbers.captures(welcome).with_context(|| format!("{welcome:?} is not a greeting"))?;
    let mut room = Room::gather(address, numbers[2].parse()?, &names(lines))?;

    let me = Client::connect_to(address)?;
    let mut name = numbers[1].to_owned();
    let expect = |expected: &str| {
        let line = me.line()?.context("the server closed the connection")?;
        ensure!(line == expected, "the server sent {line:?}, not {expected:?}");
        Ok(())
    };
    expect(welcome)?;
    room.expect(&format!("* {name} joined"))?;
    for line in lines {
        if let Some(typed) = typed(line) {
            me.send(format!("{typed}\n").as_bytes())?;
            if let Some(new) = typed.strip_prefix("/nick ") {
                room.expect(&format!("* {name} is now {new}"))?;
                new.clone_into(&mut name);
            } else if !typed.starts_with('/') {
                room.expect(&format!("{name}: {typed}"))?;
            }
        } else {
            room.act(line)?;
            expect(line)?;
        }
    }
    me.half_close()
}

/// The text that the user typed, if the user typed this line.
fn typed(line: &str) -> Option<&str> {
    let is_message = || line.split_once(": ").is_some_and(|(name, _)| !name.contains(' '));
    let is_from_server = || line.starts_with("* ") || line.starts_with("! ") || is_message();
    line.strip_prefix("< ").or_else(|| (!is_from_server()).then_some(line))
}

/// The names in the reply to `/who`.
fn names(lines: &[String]) -> Vec<&str> {
    let list = lines.iter().find_map(|line| line.strip_prefix("* here: "));
    list.unwrap_or_default().split(", ").collect()
}

/// The other clients.
struct Room(Vec<ChatClient>);

impl Room {
    /// Connects `count` clients one after the other, which take these names.
    fn gather(address: SocketAddr, count: usize, names: &[&str]) -> Result<Self> {
        let mut room = Self(Vec::new());
        for number in 0..count {
            let mut guest = ChatClient::new(Client::connect_to(address)?)?;
            room.expect(&format!("* {} joined", guest.name()))?;
            if let Some(name) = names.get(number).filter(|name| !name.is_empty()) {
                guest.change_name(name, &room.0.iter().collect::<Vec<_>>())?;
            }
            room.0.push(guest);
        }
        Ok(room)
    }

    fn expect(&self, line: &str) -> Result<()> {
        self.0.iter().try_for_each(|guest| guest.expect_line(line))
    }

    fn find(&self, name: &str) -> Result<usize> {
        let found = self.0.iter().position(|guest| guest.name() == name);
        found.with_context(|| format!("no other client is called {name}"))
    }

    /// If the line reports what another client does, makes that client do it.
    fn act(&mut self, line: &str) -> Result<()> {
        if let Some(event) = line.strip_prefix("* ") {
            if let Some(name) = event.strip_suffix(" left") {
                self.0.remove(self.find(name)?).finish()?;
                self.expect(line)?;
            }
        } else if let Some((name, text)) = line.split_once(": ") {
            self.0[self.find(name)?].send_line(text)?;
            let mut others = self.0.iter().filter(|guest| guest.name() != name);
            others.try_for_each(|guest| guest.expect_line(line))?;
        }
        Ok(())
    }
}
