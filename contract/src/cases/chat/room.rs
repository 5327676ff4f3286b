//! A chat room, as far as the smallest servers have it that are wrong in one way: everybody hears
//! what the others say, and who came and went does not matter.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, anyhow, ensure};

use crate::{Client, Server, Target, timeout, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("listener", listener),
    Case::new("stalled_guest", stalled_guest),
    Case::new("bounded_queue", bounded_queue),
    Case::new("crosstalk", crosstalk),
    Case::new("idle", idle),
];

/// Somebody in the room.
struct ChatClient {
    name: String,
    reader: BufReader<TcpStream>,
}

impl ChatClient {
    /// Returns when the server has said the guest's name: it is in the room then.
    fn enter(server: &Server) -> Result<Self> {
        let stream = Client::connect(server)?.into_stream();
        let mut guest = Self { name: String::new(), reader: BufReader::new(stream) };
        let read_greeting = guest.line()?;
        let name = read_greeting.strip_prefix("* you are ").context("no welcome")?;
        guest.name = name.chars().take_while(char::is_ascii_alphanumeric).collect();
        Ok(guest)
    }

    /// A line, whatever it says.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => anyhow!("nothing came for {} s", timeout().as_secs()),
            _ => anyhow!(error).context("cannot receive from the server"),
        })?;
        ensure!(count > 0, "the connection ended");
        Ok(line.trim_end().to_owned())
    }

    fn send_line(&self, text: &str) -> Result<()> {
        let mut stream = self.reader.get_ref();
        stream.write_all(format!("{text}\n").as_bytes()).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => anyhow!("nothing was taken for {} s", timeout().as_secs()),
            _ => anyhow!(error).context("cannot send to the server"),
        })
    }

    /// Waits for what the next guest says; who came and went does not matter.
    fn hear(&mut self) -> Result<String> {
        loop {
            let line = self.line()?;
            if !line.starts_with("* ") {
                return Ok(line);
            }
        }
    }

    /// Waits for exactly that.
    fn expect(&mut self, line: &str) -> Result<()> {
        let received = self.hear()?;
        ensure!(received == line, "{} heard {received:?} instead of {line:?}", self.name);
        Ok(())
    }
}

/// Who says nothing hears everything.
fn listener(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut listener = ChatClient::enter(server)?;
        let session = ChatClient::enter(server)?;
        // It waits for both of them.
        wait_until("the server waiting", timeout(), || Ok(server.is_asleep()?.then_some(())))?;
        (0..10).try_for_each(|number| {
            session.send_line(&number.to_string())?;
            listener.expect(&format!("{}: {number}", session.name))
        })
    })
}

/// Lines of a kilobyte, from one to the other, a few of them at a time.
fn kilobytes(from: &ChatClient, to: &mut ChatClient, count: usize) -> Result<()> {
    const AT_ONCE: usize = 20;
    for start in (0..count).step_by(AT_ONCE) {
        let texts: Vec<_> =
            (start..start + AT_ONCE).map(|number| format!("{number:1000}")).collect();
        texts.iter().try_for_each(|text| from.send_line(text))?;
        texts.iter().try_for_each(|text| to.expect(&format!("{}: {text}", from.name)))?;
    }
    Ok(())
}

/// Nobody waits for one who does not read.
fn stalled_guest(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let _stalled = Client::connect_narrow(server)?;
        let (session, mut listener) = (ChatClient::enter(server)?, ChatClient::enter(server)?);
        kilobytes(&session, &mut listener, 2000).context("beside a guest that does not read")
    })
}

/// What waits for one who does not read is bounded.
fn bounded_queue(target: &Target) -> Result<()> {
    /// What waits for one guest, 256 KiB, at most three times in memory; and what an allocator
    /// keeps.
    const SPARE: u64 = 2 << 20;
    target.launch().serve(|server| {
        let (session, mut listener) = (ChatClient::enter(server)?, ChatClient::enter(server)?);
        kilobytes(&session, &mut listener, 100)?;
        let before = server.usage()?.memory;
        let _stalled = Client::connect_narrow(server)?;
        kilobytes(&session, &mut listener, 8000)?;
        let grown = server.usage()?.memory.saturating_sub(before);
        ensure!(grown < SPARE, "the server took {grown} bytes for a guest that does not read");
        Ok(())
    })
}

/// All talk at the same time, many lines at once: everybody hears all the others, each one's lines
/// in their order.
fn crosstalk(target: &Target) -> Result<()> {
    const ROUNDS: usize = 100;
    target.launch().serve(|server| {
        let mut guests: Vec<_> =
            (0..4).map(|_| ChatClient::enter(server)).collect::<Result<_>>()?;
        let names: Vec<_> = guests.iter().map(|guest| guest.name.clone()).collect();
        for round in 0..ROUNDS {
            // So many that where reads end, in the lines, is another place each time.
            let count = 100 + 7 * round % 50;
            let texts: Vec<_> = (0..count).map(|line| format!("{round}, {line:030}")).collect();
            guests.iter().try_for_each(|guest| guest.send_line(&texts.join("\n")))?;
            for guest in &mut guests {
                let mut heard_of = vec![0; names.len()];
                for _ in 0..count * (names.len() - 1) {
                    let received = guest.hear()?;
                    let said_by = |name: &String| received.starts_with(&format!("{name}: "));
                    let from = names.iter().position(said_by);
                    let from =
                        from.with_context(|| format!("heard {received:?} instead of a line"))?;
                    let expected = format!("{}: {}", names[from], texts[heard_of[from] % count]);
                    ensure!(received == expected, "heard {received:?} instead of {expected:?}");
                    heard_of[from] += 1;
                }
            }
        }
        Ok(())
    })
}

/// Who says nothing for a second, where that is the limit, is sent away.
fn idle(target: &Target) -> Result<()> {
    target.launch_with(["127.0.0.1:0", "1"]).serve(|server| {
        let mut guest = ChatClient::enter(server)?;
        let goodbye = guest.line()?;
        ensure!(goodbye == "* idle for 1 s, goodbye", "it was sent away with {goodbye:?}");
        match guest.line() {
            Err(error) if error.to_string() == "the connection ended" => Ok(()),
            Err(error) => Err(error.context("after goodbye: the connection did not end")),
            Ok(line) => Err(anyhow!("after goodbye: {line:?}")),
        }
    })
}
