//! One guest of a chat room with blocking calls, for conversations; many of them, for crowds.

use anyhow::{Context, Result, bail, ensure};

use crate::{Client, Server};

/// A guest who has arrived. Each call ends within [`PATIENCE`](crate::PATIENCE).
#[derive(Debug)]
pub struct ChatClient {
    client: Client,
    name: String,
    others: usize,
}

/// Receives the line that a guest is welcomed with; its name, and how many others are here.
pub fn read_greeting(client: &Client) -> Result<(String, usize)> {
    let line = client.line().context("no welcome")?.context("closed without a welcome")?;
    let parts = || {
        let rest = line.strip_prefix("* you are ")?;
        let (name, rest) = rest.split_once("; ")?;
        let (others, rest) = rest.split_once(" other")?;
        let others = others.parse().ok()?;
        let s = if others == 1 { "" } else { "s" };
        let right = rest == format!("{s} here; /help lists the commands");
        right.then(|| (name.to_owned(), others))
    };
    parts().with_context(|| format!("the welcome is {line:?}"))
}

impl ChatClient {
    /// Arrives, and learns its name.
    pub fn join(server: &Server) -> Result<Self> {
        Self::new(Client::connect(server)?)
    }

    /// The same, on a connection that there is already.
    pub fn new(client: Client) -> Result<Self> {
        let (name, others) = read_greeting(&client)?;
        Ok(Self { client, name, others })
    }

    /// Its name: the one that it was given, or took with [`Guest::take_name`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many others were here when it came.
    #[must_use]
    pub fn others(&self) -> usize {
        self.others
    }

    /// Sends a line.
    pub fn send_line(&self, text: &str) -> Result<()> {
        self.send(format!("{text}\n").as_bytes())
    }

    /// Sends bytes that may be a part of a line, or several.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.client.send(bytes).with_context(|| self.name.clone())
    }

    /// Receives the next line.
    pub fn next(&self) -> Result<String> {
        let line = self.client.line().with_context(|| format!("{} listens", self.name))?;
        line.with_context(|| format!("{}'s connection has ended", self.name))
    }

    /// The next line that it receives is this.
    pub fn expect_line(&self, expected: &str) -> Result<()> {
        let line = self.next().with_context(|| format!("{:?} is to come", short(expected)))?;
        let (line, expected) = (short(&line), short(expected));
        ensure!(line == expected, "{} heard {line:?} instead of {expected:?}", self.name);
        Ok(())
    }

    /// The next line that it receives begins like this.
    pub fn expect_line_starting_with(&self, start: &str) -> Result<String> {
        let line = self.next().with_context(|| format!("{start:?} is to come"))?;
        let right = line.starts_with(start);
        ensure!(right, "{} heard {:?} instead of {start:?}", self.name, short(&line));
        Ok(line)
    }

    /// Nothing more comes, but the end.
    pub fn expect_end(&self) -> Result<()> {
        match self.client.line().with_context(|| format!("{} waits for the end", self.name))? {
            None => Ok(()),
            Some(line) => bail!("{} heard {:?} instead of the end", self.name, short(&line)),
        }
    }

    /// Asks who is here; the answer has to be the next line.
    ///
    /// So it also proves that nothing else was said to this guest before.
    pub fn who(&self) -> Result<Vec<String>> {
        self.send_line("/who")?;
        let line = self.expect_line_starting_with("* here: ")?;
        Ok(line["* here: ".len()..].split(", ").map(str::to_owned).collect())
    }

    /// Those who are here, in the order in which they came, are these; and nothing else was said
    /// to this guest before the answer.
    pub fn expect_names(&self, names: &[&str]) -> Result<()> {
        let here = self.who()?;
        ensure!(here == names, "{} sees {here:?} here instead of {names:?}", self.name);
        Ok(())
    }

    /// Takes another name, which `others` are told too.
    pub fn change_name(&mut self, name: &str, others: &[&Self]) -> Result<()> {
        let news = format!("* {} is now {name}", self.name);
        self.send_line(&format!("/nick {name}"))?;
        self.expect_line(&news)?;
        name.clone_into(&mut self.name);
        others.iter().try_for_each(|other| other.expect_line(&news))
    }

    /// Sends no more, and still receives.
    pub fn half_close(&self) -> Result<()> {
        self.client.half_close()
    }

    /// Half-closes, and receives whatever comes until the server has closed its end.
    pub fn finish(self) -> Result<()> {
        self.half_close()?;
        while self.client.line().with_context(|| format!("{} leaves", self.name))?.is_some() {}
        Ok(())
    }

    /// Ends the connection with an RST.
    pub fn reset(self) -> Result<()> {
        self.client.reset()
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Gives the connection away.
    #[must_use]
    pub fn into_client(self) -> Client {
        self.client
    }
}

/// A line, as short as a sentence can quote it.
pub(crate) fn short(line: &str) -> String {
    match line.char_indices().nth(100) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
        None => line.to_owned(),
    }
}

/// So many guests arrive, in portions that come at once. None of them listens further than to its
/// own welcome.
pub fn join_many(server: &Server, count: usize) -> Result<Vec<ChatClient>> {
    const PORTION: usize = 100;
    let mut guests = Vec::with_capacity(count);
    while guests.len() < count {
        let portion = PORTION.min(count - guests.len());
        let new: Vec<_> = (0..portion).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        for client in new {
            let number = guests.len() + 1;
            guests.push(
                ChatClient::new(client).with_context(|| format!("guest {number} of {count}"))?,
            );
        }
    }
    Ok(guests)
}
