//! The room as far as even the smallest servers have it, which make one mistake each: every client
//! receives the lines of the others. Who joins and leaves does not matter.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::case::{Case, Need};
use crate::wait::{seconds, timeout};
use crate::{Client, Server, Target, wait_until};

pub const CASES: &[Case] = &[
    Case::new("listener", "a client that sends nothing receives everything", listener)
        .needs(&[Need::Concurrent]),
    Case::new("stalled_client", "a client that does not read delays nobody", stalled_client)
        .needs(&[Need::Concurrent]),
    Case::new("bounded_queue", "output that is pending for one client is bounded", bounded_queue)
        .needs(&[Need::Concurrent]),
    Case::new("crosstalk", "lines sent at the same time arrive whole and in order", crosstalk)
        .needs(&[Need::Concurrent]),
    Case::new("idle", "an idle client receives a goodbye and EOF", idle).needs(&[HAS_IDLE_TIMEOUT]),
];

/// The servers of the workspace have it as an argument.
pub const HAS_IDLE_TIMEOUT: Need = Need::Property(
    |target| target.entry().is_some() || target.properties.idle_timeout.is_some(),
    "the server has no --idle-timeout",
);

/// A client in the room.
pub struct Member {
    name: String,
    reader: BufReader<TcpStream>,
}

impl Member {
    /// Connects, and waits for its name: then it is in the room.
    pub fn join(server: &Server) -> Result<Self> {
        let stream = Client::connect(server)?.into_stream();
        let mut member = Self { name: String::new(), reader: BufReader::new(stream) };
        let greeting = member.line()?;
        let name = greeting.strip_prefix("* you are ").context("no greeting")?;
        member.name = name.chars().take_while(char::is_ascii_alphanumeric).collect();
        Ok(member)
    }

    /// Receives any line.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => anyhow!("received nothing for {}", seconds(timeout())),
            _ => anyhow!(error).context("cannot receive from the server"),
        })?;
        ensure!(count > 0, "the connection ended");
        Ok(line.trim_end().to_owned())
    }

    pub fn send_line(&self, text: &str) -> Result<()> {
        let mut stream = self.reader.get_ref();
        stream.write_all(format!("{text}\n").as_bytes()).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => anyhow!("could not send for {}", seconds(timeout())),
            _ => anyhow!(error).context("cannot send to the server"),
        })
    }

    /// Half-closes, and waits until the server has closed the connection.
    pub fn leave(mut self) -> Result<()> {
        self.reader.get_ref().shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).context("the connection did not end")?;
        Ok(())
    }

    /// Receives the next line that another client has sent.
    fn next_line(&mut self) -> Result<String> {
        loop {
            let line = self.line()?;
            if !line.starts_with("* ") {
                return Ok(line);
            }
        }
    }

    fn expect_line(&mut self, expected: &str) -> Result<()> {
        let line = self.next_line()?;
        ensure!(line == expected, "{} received {line:?} instead of {expected:?}", self.name);
        Ok(())
    }
}

fn listener(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut listener = Member::join(server)?;
        let sender = Member::join(server)?;
        // The server then waits for input from both of them.
        wait_until("the server to wait", timeout(), || Ok(server.is_asleep()?.then_some(())))?;
        (0..10).try_for_each(|number| {
            sender.send_line(&number.to_string())?;
            listener.expect_line(&format!("{}: {number}", sender.name))
        })
    })
}

/// Sends lines of a kilobyte from one client to another, a few at a time.
fn send_kilobytes(from: &Member, to: &mut Member, count: usize) -> Result<()> {
    const GROUP: usize = 20;
    for start in (0..count).step_by(GROUP) {
        let texts: Vec<_> = (start..start + GROUP).map(|number| format!("{number:1000}")).collect();
        texts.iter().try_for_each(|text| from.send_line(text))?;
        texts.iter().try_for_each(|text| to.expect_line(&format!("{}: {text}", from.name)))?;
    }
    Ok(())
}

fn stalled_client(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let _stalled = Client::connect_narrow(server)?;
        let (sender, mut receiver) = (Member::join(server)?, Member::join(server)?);
        send_kilobytes(&sender, &mut receiver, 2000).context("beside a client that does not read")
    })
}

fn bounded_queue(target: &Target) -> Result<()> {
    /// The pending output of one client, 256 KiB, at most three times in memory, and what an
    /// allocator keeps.
    const SPARE: u64 = 2 << 20;
    target.launch().serve(|server| {
        let (sender, mut receiver) = (Member::join(server)?, Member::join(server)?);
        send_kilobytes(&sender, &mut receiver, 100)?;
        let before = server.usage()?.memory;
        let _stalled = Client::connect_narrow(server)?;
        send_kilobytes(&sender, &mut receiver, 8000)?;
        let grown = server.usage()?.memory.saturating_sub(before);
        ensure!(grown < SPARE, "the server took {grown} bytes for a client that does not read");
        Ok(())
    })
}

/// All clients send many lines at the same time. Each receives the lines of all the others, and the
/// lines of each sender in order.
fn crosstalk(target: &Target) -> Result<()> {
    const ROUNDS: usize = 100;
    target.launch().serve(|server| {
        let mut members: Vec<_> = (0..4).map(|_| Member::join(server)).collect::<Result<_>>()?;
        let names: Vec<_> = members.iter().map(|member| member.name.clone()).collect();
        for round in 0..ROUNDS {
            // Another number each time, so that reads end at other places within the lines.
            let count = 100 + 7 * round % 50;
            let texts: Vec<_> = (0..count).map(|line| format!("{round}, {line:030}")).collect();
            members.iter().try_for_each(|member| member.send_line(&texts.join("\n")))?;
            for member in &mut members {
                let mut received = vec![0; names.len()];
                for _ in 0..count * (names.len() - 1) {
                    let line = member.next_line()?;
                    let is_sender = |name: &String| line.starts_with(&format!("{name}: "));
                    let Some(sender) = names.iter().position(is_sender) else {
                        bail!("received {line:?} instead of a line");
                    };
                    let text = &texts[received[sender] % count];
                    let expected = format!("{}: {text}", names[sender]);
                    ensure!(line == expected, "received {line:?} instead of {expected:?}");
                    received[sender] += 1;
                }
            }
        }
        Ok(())
    })
}

fn idle(target: &Target) -> Result<()> {
    target.with_argument("1").launch().serve(|server| {
        let mut member = Member::join(server)?;
        let goodbye = member.line()?;
        ensure!(goodbye.starts_with("* idle for "), "the goodbye is {goodbye:?}");
        match member.line() {
            Err(error) if error.to_string() == "the connection ended" => Ok(()),
            Err(error) => Err(error.context("after the goodbye the connection did not end")),
            Ok(line) => Err(anyhow!("after the goodbye came {line:?}")),
        }
    })
}
