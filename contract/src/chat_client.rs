//! One client of a chat server with blocking calls.

use anyhow::{Context, Result, bail, ensure};

use crate::{Client, Server};

/// A client that has joined the chat room. Each call returns within
/// [`timeout`](crate::timeout).
#[derive(Debug)]
pub struct ChatClient {
    client: Client,
    name: String,
    others: usize,
}

/// Receives the greeting. Returns the name of the new client, and how many others are in the room.
pub fn read_greeting(client: &Client) -> Result<(String, usize)> {
    let line = client.line().context("no greeting")?.context("closed without a greeting")?;
    let parts = || {
        let rest = line.strip_prefix("* you are ")?;
        let (name, rest) = rest.split_once("; ")?;
        let (others, rest) = rest.split_once(" other")?;
        let others = others.parse().ok()?;
        let s = if others == 1 { "" } else { "s" };
        let right = rest == format!("{s} here; /help lists the commands");
        right.then(|| (name.to_owned(), others))
    };
    parts().with_context(|| format!("the greeting is {line:?}"))
}

impl ChatClient {
    /// Connects, and receives the greeting.
    pub fn join(server: &Server) -> Result<Self> {
        Self::new(Client::connect(server)?)
    }

    /// The same on an existing connection.
    pub fn new(client: Client) -> Result<Self> {
        let (name, others) = read_greeting(&client)?;
        Ok(Self { client, name, others })
    }

    /// Its name: the one from the greeting, or from [`ChatClient::change_name`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many others were in the room when it joined.
    #[must_use]
    pub fn others(&self) -> usize {
        self.others
    }

    /// Sends a line.
    pub fn send_line(&self, text: &str) -> Result<()> {
        self.send(format!("{text}\n").as_bytes())
    }

    /// Sends bytes, which may be part of a line or several lines.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.client.send(bytes).with_context(|| self.name.clone())
    }

    /// Receives the next line.
    pub fn next_line(&self) -> Result<String> {
        let line = self.client.line().with_context(|| format!("{} receives", self.name))?;
        line.with_context(|| format!("the connection of {} has ended", self.name))
    }

    /// Checks that the next line is this one.
    pub fn expect_line(&self, expected: &str) -> Result<()> {
        let line = self.next_line().with_context(|| format!("expected {:?}", short(expected)))?;
        let (line, expected) = (short(&line), short(expected));
        ensure!(line == expected, "{} received {line:?} instead of {expected:?}", self.name);
        Ok(())
    }

    /// Checks that the next line starts like this. Returns the line.
    pub fn expect_line_starting_with(&self, start: &str) -> Result<String> {
        let line = self.next_line().with_context(|| format!("expected {start:?}"))?;
        let right = line.starts_with(start);
        ensure!(right, "{} received {:?} instead of {start:?}", self.name, short(&line));
        Ok(line)
    }

    /// Checks that nothing more comes but EOF.
    pub fn expect_end(&self) -> Result<()> {
        match self.client.line().with_context(|| format!("{} waits for EOF", self.name))? {
            None => Ok(()),
            Some(line) => bail!("{} received {:?} instead of EOF", self.name, short(&line)),
        }
    }

    /// Sends `/who`. The next line has to be the response, which proves that the server sent nothing
    /// else to this client before.
    pub fn who(&self) -> Result<Vec<String>> {
        self.send_line("/who")?;
        let line = self.expect_line_starting_with("* here: ")?;
        Ok(line["* here: ".len()..].split(", ").map(str::to_owned).collect())
    }

    /// Checks that these clients are in the room, in the order in which they joined, and that the
    /// server sent nothing else to this client before.
    pub fn expect_names(&self, names: &[&str]) -> Result<()> {
        let here = self.who()?;
        ensure!(here == names, "{} sees {here:?} in the room instead of {names:?}", self.name);
        Ok(())
    }

    /// Changes its name. Checks that it and `others` are notified.
    pub fn change_name(&mut self, name: &str, others: &[&Self]) -> Result<()> {
        let line = format!("* {} is now {name}", self.name);
        self.send_line(&format!("/nick {name}"))?;
        self.expect_line(&line)?;
        name.clone_into(&mut self.name);
        others.iter().try_for_each(|other| other.expect_line(&line))
    }

    /// Sends FIN. The client can still receive.
    pub fn half_close(&self) -> Result<()> {
        self.client.half_close()
    }

    /// Half-closes, and receives until the server has closed the connection.
    pub fn finish(self) -> Result<()> {
        self.half_close()?;
        while self.client.line().with_context(|| format!("{} finishes", self.name))?.is_some() {}
        Ok(())
    }

    /// Closes the connection with RST.
    pub fn reset(self) -> Result<()> {
        self.client.reset()
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the connection.
    #[must_use]
    pub fn into_client(self) -> Client {
        self.client
    }
}

/// A line, short enough to be quoted in a message.
pub(crate) fn short(line: &str) -> String {
    match line.char_indices().nth(100) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
        None => line.to_owned(),
    }
}

/// `count` clients join, in groups that connect at once. Each has received its own greeting only.
pub fn join_many(server: &Server, count: usize) -> Result<Vec<ChatClient>> {
    const GROUP: usize = 100;
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let group = GROUP.min(count - clients.len());
        let new: Vec<_> = (0..group).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        for client in new {
            let number = clients.len() + 1;
            let joined = ChatClient::new(client);
            clients.push(joined.with_context(|| format!("client {number} of {count}"))?);
        }
    }
    Ok(clients)
}
