//! A room full of chat clients, of which a few talk, and all check what they are sent.
//!
//! The room's order is what the clients that only listen see: each of them has to see the same.
//! Those who talk have to see it too, without their own lines.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use memchr::memchr_iter;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Clients, Tally, crowd};

/// How many of the clients talk; each has a line on its way all the time.
const TALKERS: usize = 8;
/// Characters of a line, beside the name that the server puts before it.
const TEXT: usize = 56;
/// Clients that arrive together.
const PORTION: usize = 50;

/// How the clients behave.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub clients: usize,
    /// How long the server may keep silent while it owes something.
    pub patience: Duration,
}

/// The clients, in one thread.
#[derive(Debug)]
pub struct Load {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    room: Room,
    buffer: Vec<u8>,
    patience: Duration,
    /// When something came for the last time, or something was owed again for the first.
    heard: Instant,
}

/// What is common to all clients.
#[derive(Debug)]
struct Room {
    clients: usize,
    /// The lines in the order in which they came, without those that all clients have.
    lines: VecDeque<Line>,
    /// How many lines came before those.
    gone: usize,
    talkers: Vec<Talker>,
    /// Those of them whose last line has reached everybody.
    done: Vec<usize>,
    tally: Tally,
}

#[derive(Debug)]
struct Line {
    talker: usize,
    text: Vec<u8>,
    sent: Instant,
    /// How many clients have it.
    reached: usize,
}

#[derive(Debug, Default)]
struct Talker {
    /// Its line that is on its way and that nobody has seen, as the others will see it.
    unseen: Option<(Vec<u8>, Instant)>,
    /// It has said something that does not have reached everybody.
    waits: bool,
    lines: u64,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    /// Its number in the name that the server gave it, from the greeting on.
    guest: Option<usize>,
    /// Who has to be the next to join.
    joins: usize,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// How many lines of the room it has seen; its own count.
    seen: usize,
    talker: Option<usize>,
    /// Lines of these talkers came before any listener saw them.
    ahead: VecDeque<usize>,
}

impl Load {
    /// Connects. When this returns everybody has been greeted, and has seen everybody who came
    /// later join.
    pub fn connect(addr: SocketAddr, shape: Shape) -> Result<Self> {
        let Shape { clients, patience } = shape;
        assert!(clients > 1, "somebody listens");
        let talkers = TALKERS.min(clients / 2);
        let room = Room {
            clients,
            lines: VecDeque::new(),
            gone: 0,
            talkers: (0..talkers).map(|_| Talker::default()).collect(),
            done: Vec::new(),
            tally: Tally::new(),
        };
        let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
        let (clients, buffer) = (Vec::new(), vec![0; 64 * 1024]);
        let heard = Instant::now();
        let mut load = Self { poll, events, clients, room, buffer, patience, heard };
        while load.clients.len() < shape.clients {
            for _ in 0..PORTION.min(shape.clients - load.clients.len()) {
                load.enter(addr)?;
            }
            // All of them have seen the last of this portion join.
            let present = load.clients.len();
            load.until("greet or announce everybody", |load| {
                load.clients.iter().all(|client| client.joins == present + 1)
            })?;
        }
        Ok(load)
    }

    fn enter(&mut self, addr: SocketAddr) -> Result<()> {
        let number = self.clients.len();
        let stream = crowd::open(addr, self.patience)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
        self.clients.push(Client {
            stream,
            guest: None,
            joins: 0,
            begun: Vec::new(),
            seen: 0,
            talker: (number < self.room.talkers.len()).then_some(number),
            ahead: VecDeque::new(),
        });
        Ok(())
    }

    fn talk(&mut self, talker: usize) -> Result<()> {
        let client = &mut self.clients[talker];
        let guest = client.guest.context("nobody talks before the greeting")?;
        let state = &mut self.room.talkers[talker];
        state.lines += 1;
        // Another text each time: a line that comes twice, or late, is not the one expected.
        let text = format!("{:0TEXT$}", state.lines);
        let now = Instant::now();
        state.unseen = Some((format!("guest{guest}: {text}").into_bytes(), now));
        state.waits = true;
        let bytes = format!("{text}\n");
        let count = client.stream.write(bytes.as_bytes()).context("cannot send")?;
        ensure!(count == bytes.len(), "the server does not take a line of {TEXT} characters");
        Ok(())
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            self.wait(None, what)?;
        }
        Ok(())
    }

    /// Waits once, and takes what has come.
    fn wait(&mut self, end: Option<Instant>, what: &str) -> Result<()> {
        let now = Instant::now();
        let limit = self.heard + self.patience;
        let deadline = end.map_or(limit, |end| end.min(limit));
        match self.poll.poll(&mut self.events, Some(deadline.saturating_duration_since(now))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        if !self.events.is_empty() {
            self.heard = now;
        } else if now >= limit {
            bail!(
                "the server did not {what} within {} s{}",
                self.patience.as_secs_f32(),
                self.room.first_missing()
            );
        }
        let before = self.room.end();
        for event in &self.events {
            self.clients[event.token().0].go_on(&mut self.room, &mut self.buffer)?;
        }
        if self.room.end() > before {
            for talker in 0..self.room.talkers.len() {
                self.clients[talker].catch_up(&mut self.room)?;
            }
        }
        self.room.forget();
        Ok(())
    }
}

impl Clients for Load {
    fn run(&mut self, time: Duration) -> Result<()> {
        let now = Instant::now();
        let end = now + time;
        if self.room.talkers.iter().all(|talker| !talker.waits) {
            self.heard = now;
        }
        for talker in 0..self.room.talkers.len() {
            if !self.room.talkers[talker].waits {
                self.talk(talker)?;
            }
        }
        while Instant::now() < end {
            self.wait(Some(end), "deliver a line")?;
            for talker in std::mem::take(&mut self.room.done) {
                self.talk(talker)?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.until("deliver the last lines", |load| {
            load.room.talkers.iter().all(|talker| !talker.waits)
        })?;
        self.room.done.clear();
        Ok(())
    }

    fn take(&mut self) -> Tally {
        std::mem::replace(&mut self.room.tally, Tally::new())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.drain()?;
        self.poll.poll(&mut self.events, Some(Duration::from_millis(20)))?;
        for event in &self.events {
            // A line too many shows when it is compared.
            self.clients[event.token().0].go_on(&mut self.room, &mut self.buffer)?;
        }
        ensure!(self.room.lines.is_empty(), "a line came that nobody had said");
        Ok(())
    }
}

impl Room {
    /// How many lines have come in all.
    fn end(&self) -> usize {
        self.gone + self.lines.len()
    }

    /// One more client has the line.
    fn reach(&mut self, number: usize) {
        let line = &mut self.lines[number - self.gone];
        line.reached += 1;
        self.tally.messages += 1;
        if line.reached == self.clients - 1 {
            self.tally.record(line.sent.elapsed());
            self.talkers[line.talker].waits = false;
            self.done.push(line.talker);
        }
    }

    /// Lines that all clients have are not needed any more.
    fn forget(&mut self) {
        while self.lines.front().is_some_and(|line| line.reached == self.clients - 1) {
            self.lines.pop_front();
            self.gone += 1;
        }
    }

    /// The talker whose line on its way this is.
    fn unseen(&self, text: &[u8]) -> Option<usize> {
        let matches =
            |talker: &Talker| talker.unseen.as_ref().is_some_and(|(line, _)| line == text);
        self.talkers.iter().position(matches)
    }

    fn first_missing(&self) -> String {
        self.lines.front().map_or(String::new(), |line| {
            let text = String::from_utf8_lossy(&line.text);
            format!(": {text:?} has reached {} of {}", line.reached, self.clients - 1)
        })
    }
}

impl Client {
    /// Reads once; what more there is comes with another event, or is read at once.
    fn go_on(&mut self, room: &mut Room, buffer: &mut [u8]) -> Result<()> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection of guest {:?}", self.guest),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot receive"),
            };
            let mut start = 0;
            for end in memchr_iter(b'\n', &buffer[..count]) {
                let line = &buffer[start..end];
                start = end + 1;
                if self.begun.is_empty() {
                    self.line(room, line)?;
                } else {
                    self.begun.extend_from_slice(line);
                    let line = std::mem::take(&mut self.begun);
                    self.line(room, &line)?;
                }
            }
            self.begun.extend_from_slice(&buffer[start..count]);
            if count < buffer.len() {
                return Ok(());
            }
        }
    }

    fn line(&mut self, room: &mut Room, line: &[u8]) -> Result<()> {
        let wrong = || format!("{:?} came", String::from_utf8_lossy(line));
        let Some(guest) = self.guest else {
            let guest = number(line, "* you are guest", ";").with_context(wrong)?;
            (self.guest, self.joins) = (Some(guest), guest + 1);
            return Ok(());
        };
        if line.starts_with(b"* ") {
            let joined = number(line, "* guest", " joined").with_context(wrong)?;
            ensure!(joined == self.joins, "{} where guest{} joins", wrong(), self.joins);
            self.joins += 1;
            return Ok(());
        }
        self.catch_up(room)?;
        if self.seen < room.end() {
            let expected = &room.lines[self.seen - room.gone].text;
            ensure!(
                line == expected,
                "{} to guest{guest} where others were sent {:?}",
                wrong(),
                String::from_utf8_lossy(expected)
            );
            self.see(room);
            return Ok(());
        }
        let Some(talker) = room.unseen(line) else {
            bail!("{} to guest{guest}: lost before, doubled, or said by nobody", wrong());
        };
        if self.talker.is_some() {
            ensure!(!self.ahead.contains(&talker), "{} twice", wrong());
            self.ahead.push_back(talker);
            return Ok(());
        }
        let (text, sent) = room.talkers[talker].unseen.take().with_context(wrong)?;
        room.lines.push_back(Line { talker, text, sent, reached: 0 });
        self.see(room);
        Ok(())
    }

    fn see(&mut self, room: &mut Room) {
        room.reach(self.seen);
        self.seen += 1;
    }

    /// Its own lines are in the room's order, but it is not sent them.
    fn skip_own(&mut self, room: &Room) {
        // What the room has forgotten has reached everybody but who said it.
        self.seen = self.seen.max(room.gone);
        while self.talker.is_some()
            && self.seen < room.end()
            && self.talker == Some(room.lines[self.seen - room.gone].talker)
        {
            self.seen += 1;
        }
    }

    /// Compares what came early with what the listeners have seen since.
    fn catch_up(&mut self, room: &mut Room) -> Result<()> {
        loop {
            self.skip_own(room);
            if self.seen == room.end() {
                return Ok(());
            }
            let Some(talker) = self.ahead.pop_front() else { return Ok(()) };
            let expected = room.lines[self.seen - room.gone].talker;
            ensure!(
                talker == expected,
                "guest{:?} was sent a line of talker {talker} where others were sent one of \
                 {expected}",
                self.guest
            );
            self.see(room);
        }
    }
}

fn number(line: &[u8], before: &str, after: &str) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix(before)?;
    line.split_once(after)?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;

    const SHAPE: Shape = Shape { clients: 6, patience: Duration::from_secs(2) };

    /// Says what the client of this index is sent instead of a line; the first argument is how
    /// many lines were before.
    type Answer = fn(usize, usize, &str) -> Vec<String>;

    /// Serves a room behind one lock, with `answer` in place of each line.
    fn server(answer: Answer) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let room = Arc::new(Mutex::new((0, Vec::<std::net::TcpStream>::new())));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                stream.set_nodelay(true).expect("a socket");
                let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                let own = {
                    let (_, clients) = &mut *room.lock().expect("nobody panics");
                    for mut client in &*clients {
                        let line = format!("* guest{} joined\n", clients.len() + 1);
                        client.write_all(line.as_bytes()).expect("it reads");
                    }
                    let own = clients.len();
                    let hello = format!("* you are guest{}; {own} others here\n", own + 1);
                    (&stream).write_all(hello.as_bytes()).expect("it reads");
                    clients.push(stream);
                    own
                };
                let room = Arc::clone(&room);
                thread::spawn(move || {
                    for line in reader.lines().map_while(Result::ok) {
                        let (count, clients) = &mut *room.lock().expect("nobody panics");
                        let text = format!("guest{}: {line}", own + 1);
                        for (index, mut client) in clients.iter().enumerate() {
                            if index != own {
                                let lines = answer(*count, index, &text);
                                let bytes: String =
                                    lines.iter().map(|line| line.clone() + "\n").collect();
                                // It fails at the end of the test, when the clients are gone.
                                let _ = client.write_all(bytes.as_bytes());
                            }
                        }
                        *count += 1;
                    }
                });
            }
        });
        addr
    }

    fn load(addr: SocketAddr) -> Result<u64> {
        let mut load = Load::connect(addr, SHAPE)?;
        let mut messages = 0;
        // However slow the machine is: until long after what a wrong server does wrong.
        while messages < 500 {
            load.run(Duration::from_millis(10))?;
            messages += load.take().messages;
        }
        load.drain()?;
        messages += load.take().messages;
        Box::new(load).finish()?;
        Ok(messages)
    }

    fn failure(answer: Answer) -> String {
        format!("{:#}", load(server(answer)).expect_err("the server is wrong"))
    }

    #[test]
    fn counts_what_a_right_server_delivers() {
        let messages = load(server(|_, _, line| vec![line.to_owned()])).expect("it is right");
        assert!(messages > 0 && messages % 5 == 0, "{messages}");
    }

    #[test]
    fn catches_a_line_that_is_lost_for_one() {
        let lost: Answer = |count, index, line| {
            if count == 5 && index == 4 { Vec::new() } else { vec![line.to_owned()] }
        };
        let failure = failure(lost);
        assert!(
            failure.contains("where others were sent") || failure.contains("lost"),
            "{failure}"
        );
    }

    #[test]
    fn catches_a_line_that_is_lost_for_all() {
        let failure =
            failure(|count, _, line| if count == 5 { Vec::new() } else { vec![line.to_owned()] });
        assert!(failure.contains("did not deliver"), "{failure}");
    }

    #[test]
    fn catches_lines_that_are_doubled() {
        // Many, as some of them are the client's own.
        let for_talker: Answer =
            |count, index, line| vec![line.to_owned(); 1 + usize::from(count >= 5 && index == 0)];
        let for_listener: Answer =
            |count, index, line| vec![line.to_owned(); 1 + usize::from(count == 5 && index == 5)];
        for doubled in [for_talker, for_listener] {
            let failure = failure(doubled);
            assert!(!failure.contains("did not"), "{failure}");
        }
    }

    #[test]
    fn catches_lines_that_are_swapped_for_one() {
        static KEPT: Mutex<Option<String>> = Mutex::new(None);
        let failure = failure(|count, index, line| {
            if index != 5 {
                return vec![line.to_owned()];
            }
            let mut kept = KEPT.lock().expect("nobody panics");
            if count == 5 {
                *kept = Some(line.to_owned());
                return Vec::new();
            }
            [Some(line.to_owned()), kept.take()].into_iter().flatten().collect()
        });
        assert!(failure.contains("where others were sent"), "{failure}");
    }

    #[test]
    fn catches_a_character_that_is_changed() {
        let failure = failure(|count, index, line| {
            vec![if count == 5 && index == 5 {
                line.replacen('0', "O", 1)
            } else {
                line.to_owned()
            }]
        });
        assert!(!failure.contains("did not"), "{failure}");
    }

    #[test]
    fn catches_a_line_after_the_last() {
        let failure = failure(|count, index, line| {
            let mut lines = vec![line.to_owned()];
            if count == 3 && index == 5 {
                lines.push("guest9: boo".to_owned());
            }
            lines
        });
        assert!(failure.contains("boo"), "{failure}");
    }
}
