//! The play: the same few things that two clients do to each server, and when they did them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::servers::Kind;
use crate::strace::Nanos;

/// How long nothing must happen until the play goes on.
const PAUSE: Duration = Duration::from_millis(30);
/// How long nobody speaks before the one message that the comparison shows.
const SILENCE: Duration = Duration::from_millis(60);
/// What A sends at once before it reads late.
const MUCH: usize = 80 * 1024;
/// The same in the chat.
const LINES: usize = 24;
/// The clients' receive buffers, and the largest segment of their connections (that of Ethernet):
/// what the kernel keeps for a client that does not read is so little that the server notices.
const RECEIVE: usize = 8 * 1024;
const SEGMENT: u32 = 1448;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    pub acts: Vec<Act>,
    pub clients: Vec<Client>,
    pub end: Nanos,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub at: Nanos,
    pub title: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub name: char,
    pub port: u16,
    pub deeds: Vec<Deed>,
}

/// What a client did, from before to after its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    pub from: Nanos,
    pub to: Nanos,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Connect,
    Send(u64),
    Receive(u64),
    Leave,
}

impl Play {
    /// Plays against the server at `address`.
    pub fn perform(address: SocketAddr, kind: Kind) -> Result<Self> {
        let mut stage = Stage { address, kind, acts: Vec::new(), actors: Vec::new() };
        stage.play()?;
        let end = now();
        // That they leave now ends calls that have begun in the play.
        (0..stage.actors.len()).for_each(|actor| stage.leave(actor));
        let clients = stage.actors.into_iter().map(|actor| actor.client).collect();
        Ok(Self { acts: stage.acts, clients, end })
    }

    /// The lines that [`Play::read`] reads.
    pub fn write(&self) -> String {
        let mut text = String::new();
        for Act { at, title } in &self.acts {
            text += &format!("# act {at} {title}\n");
        }
        for Client { name, port, deeds } in &self.clients {
            text += &format!("# client {name} {port}\n");
            for Deed { from, to, what } in deeds {
                let what = match what {
                    What::Connect => "connect".to_owned(),
                    What::Send(bytes) => format!("send {bytes}"),
                    What::Receive(bytes) => format!("receive {bytes}"),
                    What::Leave => "leave".to_owned(),
                };
                text += &format!("# {name} {from} {to} {what}\n");
            }
        }
        text + &format!("# end {}\n", self.end)
    }

    /// Reads what [`Play::write`] wrote; other lines are skipped.
    pub fn read(text: &str) -> Result<Self> {
        let mut play = Self { acts: Vec::new(), clients: Vec::new(), end: 0 };
        for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
            play.read_line(line).with_context(|| format!("not a line of a play: {line:?}"))?;
        }
        Ok(play)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let (first, rest) = line.split_once(' ')?;
        match first {
            "act" => {
                let (at, title) = rest.split_once(' ')?;
                self.acts.push(Act { at: at.parse().ok()?, title: title.to_owned() });
            }
            "client" => {
                let (name, port) = rest.split_once(' ')?;
                let (name, port) = (name.chars().next()?, port.parse().ok()?);
                self.clients.push(Client { name, port, deeds: Vec::new() });
            }
            "end" => self.end = rest.parse().ok()?,
            name => {
                let client =
                    self.clients.iter_mut().find(|client| name.starts_with(client.name))?;
                let mut words = rest.split(' ');
                let (from, to) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let (what, bytes) = (words.next()?, words.next().and_then(|n| n.parse().ok()));
                let what = match what {
                    "connect" => What::Connect,
                    "send" => What::Send(bytes?),
                    "receive" => What::Receive(bytes?),
                    _ => What::Leave,
                };
                client.deeds.push(Deed { from, to, what });
            }
        }
        Some(())
    }

    /// The less, the calmer the machine was: whatever holds up the server makes the play longer.
    ///
    /// What counts most is the answer to the message that breaks the silence, which is compared.
    pub fn unrest(&self) -> Nanos {
        const WEIGHT: Nanos = 20;
        let start = self.acts.first().map_or(0, |act| act.at);
        let deeds = || self.clients.iter().flat_map(|client| &client.deeds);
        let sent = deeds().filter(|deed| matches!(deed.what, What::Send(_))).map(moment).min();
        // In the chat it is B who hears it, and the room has greeted both before.
        let heard = deeds().filter(|deed| matches!(deed.what, What::Receive(_))).map(moment);
        let answer = sent.and_then(|sent| Some(heard.filter(|&at| at > sent).min()? - sent));
        self.end - start + WEIGHT * answer.unwrap_or(0)
    }

    /// When act number `index` is over.
    pub fn act_end(&self, index: usize) -> Nanos {
        self.acts.get(index + 1).map_or(self.end, |next| next.at)
    }
}

/// When others could see it: a client has what it received when its call returns, and the server
/// what it sent as soon as the call begins.
pub fn moment(deed: &Deed) -> Nanos {
    if matches!(deed.what, What::Receive(_)) { deed.to } else { deed.from }
}

struct Stage {
    address: SocketAddr,
    kind: Kind,
    acts: Vec<Act>,
    actors: Vec<Actor>,
}

struct Actor {
    client: Client,
    socket: Option<Socket>,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
    /// Does not read.
    deaf: bool,
}

const A: usize = 0;
const B: usize = 1;

impl Stage {
    fn play(&mut self) -> Result<()> {
        let chat = self.kind == Kind::Chat;
        if self.kind != Kind::Datagram {
            self.act("A and B connect");
        }
        self.rest(PAUSE)?;
        self.enter('A')?;
        self.rest(PAUSE)?;
        self.enter('B')?;
        self.rest(PAUSE)?;

        self.act("Nobody speaks; then A sends a message");
        self.rest(SILENCE)?;
        self.send(A, b"hello\n")?;
        self.rest(PAUSE)?;

        self.act("A and B send at the same time");
        self.send(A, b"one\n")?;
        self.send(B, b"two\n")?;
        self.rest(PAUSE)?;

        let (title, reader) = match self.kind {
            Kind::Echo => ("A sends 80 KiB at once, and reads later", A),
            Kind::Chat => ("A sends 24 lines at once, and B reads later", B),
            Kind::Datagram => ("A sends three datagrams, and reads later", A),
        };
        self.act(title);
        self.actors[reader].deaf = true;
        if self.kind == Kind::Datagram {
            for datagram in [&b"one\n"[..], b"two\n", b"three\n"] {
                self.send(A, datagram)?;
            }
        } else if chat {
            self.send(A, "a line that is not short and not long\n".repeat(LINES).as_bytes())?;
        } else {
            self.send(A, &vec![b'x'; MUCH])?;
        }
        self.rest(PAUSE)?;
        self.actors[reader].deaf = false;
        self.rest(PAUSE)?;

        if self.kind != Kind::Datagram {
            self.act("A leaves");
            self.leave(A);
            self.rest(PAUSE)?;
        }
        Ok(())
    }

    fn act(&mut self, title: &str) {
        self.acts.push(Act { at: now(), title: title.to_owned() });
    }

    fn enter(&mut self, name: char) -> Result<()> {
        let mut client = Client { name, port: 0, deeds: Vec::new() };
        let socket = if self.kind == Kind::Datagram {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            socket.connect(&self.address.into())?;
            socket
        } else {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_recv_buffer_size(RECEIVE)?;
            socket.set_send_buffer_size(2 * MUCH)?;
            socket.set_tcp_mss(SEGMENT)?;
            let from = now();
            socket.connect(&self.address.into())?;
            client.deeds.push(Deed { from, to: now(), what: What::Connect });
            socket
        };
        socket.set_nonblocking(true)?;
        client.port = socket.local_addr()?.as_socket().context("no port")?.port();
        self.actors.push(Actor { client, socket: Some(socket), unsent: Vec::new(), deaf: false });
        Ok(())
    }

    fn send(&mut self, actor: usize, bytes: &[u8]) -> Result<()> {
        self.actors[actor].unsent.extend(bytes);
        self.actors[actor].flush()
    }

    fn leave(&mut self, actor: usize) {
        let actor = &mut self.actors[actor];
        let from = now();
        if actor.socket.take().is_none() {
            return;
        }
        actor.client.deeds.push(Deed { from, to: now(), what: What::Leave });
    }

    /// Lets the clients read, until nothing has come for as long as `pause`.
    fn rest(&mut self, pause: Duration) -> Result<()> {
        let timeout = PollTimeout::try_from(pause)?;
        loop {
            let watched: Vec<_> = (self.actors.iter().enumerate())
                .filter_map(|(index, actor)| Some((index, actor.socket.as_ref()?, actor.events()?)))
                .collect();
            let mut fds: Vec<_> = watched
                .iter()
                .map(|(_, socket, events)| PollFd::new(socket.as_fd(), *events))
                .collect();
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => bail!(error),
            }
            let ready: Vec<_> = (watched.iter().zip(&fds))
                .filter(|(_, fd)| fd.any().unwrap_or(false))
                .map(|(&(index, ..), _)| index)
                .collect();
            for index in ready {
                let actor = &mut self.actors[index];
                if !actor.unsent.is_empty() {
                    actor.flush()?;
                }
                if !actor.deaf {
                    actor.receive()?;
                }
            }
        }
    }
}

impl Actor {
    /// What it waits for.
    fn events(&self) -> Option<PollFlags> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, !self.deaf);
        events.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        (!events.is_empty()).then_some(events)
    }

    fn flush(&mut self) -> Result<()> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(()) };
        let from = now();
        match socket.write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                let what = What::Send(count as u64);
                self.client.deeds.push(Deed { from, to: now(), what });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => bail!(error),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(()) };
        let mut buffer = [0; 16 * 1024];
        let from = now();
        match socket.read(&mut buffer) {
            Ok(0) => self.socket = None, // the server has closed
            Ok(count) => {
                let what = What::Receive(count as u64);
                self.client.deeds.push(Deed { from, to: now(), what });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => bail!(error),
        }
        Ok(())
    }
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as Nanos
}
