//! What `nc` shows is what happens: the lines that are typed, and those that come.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use contract::{ChatClient, Client, TIMEOUT};
use regex::Regex;

/// Whether this is what a guest of a chat sees.
pub fn is_chat(lines: &[String]) -> bool {
    lines.first().is_some_and(|line| line.starts_with("* you are "))
}

/// Each line that is typed comes back.
pub fn echo(address: SocketAddr, lines: &[String]) -> Result<()> {
    let client = Client::connect_to(address)?;
    for (typed, echo) in pairs(lines)? {
        client.send(format!("{typed}\n").as_bytes())?;
        let line = client.line()?.context("the server has closed the connection")?;
        ensure!(line == *echo, "to {typed:?} came {line:?} instead of {echo:?}");
    }
    client.finish()
}

/// The same with `nc -u`.
pub fn echo_datagrams(address: SocketAddr, lines: &[String]) -> Result<()> {
    let peer = UdpSocket::bind("127.0.0.1:0")?;
    peer.connect(address)?;
    peer.set_read_timeout(Some(TIMEOUT))?;
    for (typed, echo) in pairs(lines)? {
        peer.send(format!("{typed}\n").as_bytes())?;
        let mut answer = [0; 2000];
        let count = peer.recv(&mut answer).with_context(|| format!("no answer to {typed:?}"))?;
        let line = String::from_utf8_lossy(&answer[..count]);
        ensure!(line == format!("{echo}\n"), "to {typed:?} came {line:?} instead of {echo:?}");
    }
    Ok(())
}

fn pairs(lines: &[String]) -> Result<impl Iterator<Item = (&String, &String)>> {
    ensure!(lines.len() % 2 == 0, "a line without its echo");
    Ok(lines.chunks(2).map(|pair| (&pair[0], &pair[1])))
}

/// A conversation in a chat, as one guest sees it. What it types, with or without a `<`, is what
/// cannot have come from the server. The others are made to do what the guest sees them do, and
/// have to hear what it says.
pub fn chat(address: SocketAddr, lines: &[String]) -> Result<()> {
    let (welcome, lines) = lines.split_first().context("nothing is said")?;
    let numbers = Regex::new(r"^\* you are (guest[0-9]+); ([0-9]+) others? here;")?;
    let numbers =
        numbers.captures(welcome).with_context(|| format!("{welcome:?} is no welcome"))?;
    let mut room = Room::gather(address, numbers[2].parse()?, &names(lines))?;

    let me = Client::connect_to(address)?;
    let mut name = numbers[1].to_owned();
    let hear = |expected: &str| {
        let line = me.line()?.context("the server has closed the connection")?;
        ensure!(line == expected, "{line:?} came instead of {expected:?}");
        Ok(())
    };
    hear(welcome)?;
    room.hear(&format!("* {name} joined"))?;
    for line in lines {
        if let Some(typed) = typed(line) {
            me.send(format!("{typed}\n").as_bytes())?;
            if let Some(new) = typed.strip_prefix("/nick ") {
                room.hear(&format!("* {name} is now {new}"))?;
                new.clone_into(&mut name);
            } else if !typed.starts_with('/') {
                room.hear(&format!("{name}: {typed}"))?;
            }
        } else {
            room.act(line)?;
            hear(line)?;
        }
    }
    me.half_close()
}

/// The line, if the one whose screen this is has typed it.
fn typed(line: &str) -> Option<&str> {
    let said = || line.split_once(": ").is_some_and(|(name, _)| !name.contains(' '));
    let came = || line.starts_with("* ") || line.starts_with("! ") || said();
    line.strip_prefix("< ").or_else(|| (!came()).then_some(line))
}

/// Who is listed where somebody asks who is here.
fn names(lines: &[String]) -> Vec<&str> {
    let list = lines.iter().find_map(|line| line.strip_prefix("* here: "));
    list.unwrap_or_default().split(", ").collect()
}

/// The others.
struct Room(Vec<ChatClient>);

impl Room {
    /// So many come one after the other, and take these names.
    fn gather(address: SocketAddr, count: usize, names: &[&str]) -> Result<Self> {
        let mut room = Self(Vec::new());
        for number in 0..count {
            let mut guest = ChatClient::new(Client::connect_to(address)?)?;
            room.hear(&format!("* {} joined", guest.name()))?;
            if let Some(name) = names.get(number).filter(|name| !name.is_empty()) {
                guest.change_name(name, &room.0.iter().collect::<Vec<_>>())?;
            }
            room.0.push(guest);
        }
        Ok(room)
    }

    fn hear(&self, line: &str) -> Result<()> {
        self.0.iter().try_for_each(|guest| guest.expect_line(line))
    }

    fn find(&self, name: &str) -> Result<usize> {
        let found = self.0.iter().position(|guest| guest.name() == name);
        found.with_context(|| format!("no other guest is called {name}"))
    }

    /// If the line tells what one of the others does, it does so.
    fn act(&mut self, line: &str) -> Result<()> {
        if let Some(news) = line.strip_prefix("* ") {
            if let Some(name) = news.strip_suffix(" left") {
                self.0.remove(self.find(name)?).finish()?;
                self.hear(line)?;
            }
        } else if let Some((name, text)) = line.split_once(": ") {
            self.0[self.find(name)?].send_line(text)?;
            let mut others = self.0.iter().filter(|guest| guest.name() != name);
            others.try_for_each(|guest| guest.expect_line(line))?;
        }
        Ok(())
    }
}
