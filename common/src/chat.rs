//! The chat room: its rules, as pure code without I/O and without a clock of its own.
//!
//! A server tells the [`Room`] what happened ([`Room::join`], [`Room::input`], [`Room::end`],
//! [`Room::leave`], [`Room::expire`]) and is told what to do ([`Effects`]); [`Room::owed`] hands
//! out what there is to write. Whoever waits, copies and handles, the room is the same.
//!
//! Threads share it as a `Mutex<Room>`, locked for one of these calls and never across a system
//! call. There is no second lock to take inside it, so none to take in the wrong order; and as
//! one call hands a line to everybody, everybody sees the room's lines in the same order.
//! Pitfall: lock-while-broadcasting.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

/// The most bytes of a line, without its end.
pub const LINE: usize = 1024;

/// The most that can wait for a client: one that has not taken so much does not read.
pub const BOUND: usize = 256 * 1024;

/// Bytes to read at once from a client: with a name of 16 letters before each letter they carry,
/// they make 40 KiB for everybody else, well below the [`BOUND`].
pub const READ: usize = 4096;

/// The most that should be read and not yet offered, as lines, to everybody's socket.
///
/// A server that reads on and on from those who send, before it gets to writing, would take for a
/// client that does not read what is a server that does not write. So much input makes 120 KiB of
/// lines at worst. Twice that is still below the [`BOUND`], for where a write is under way while
/// the next lines come; and of lines as people write them, it is hundreds.
pub const UNDER_WAY: usize = 3 * READ;

/// How long a client that leaves may take over its last lines.
const LINGER: Duration = Duration::from_secs(10);

/// Reads the argument `IDLE`, in seconds; `None` for 0, which is never.
///
/// # Errors
/// What is not a number of seconds.
pub fn idle(text: &str) -> anyhow::Result<Option<Duration>> {
    let seconds: u32 =
        text.parse().with_context(|| format!("IDLE is a number of seconds, not {text:?}"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

/// A client, for as long as the server runs: ids count up from 0 and are never given out twice,
/// so that an event which comes too late cannot be taken for a newer client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// What a server has to do now. The calls of [`Room`] append to it; who acts on it empties it.
///
/// An id in it may be unknown to the room by then: that is no error in any call.
#[derive(Debug, Default)]
pub struct Effects {
    /// Whose lines wait to be written by somebody: one that calls [`Room::owed`], writes and
    /// calls it again until it says that nothing is owed. Until then the id does not come again,
    /// so that there is one writer a client.
    pub write: Vec<Id>,
    /// Whose connection is to be cut now. The room has forgotten it.
    pub close: Vec<Id>,
}

/// What [`Room::owed`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// These bytes, in one write.
    Lines,
    /// Nothing: the next line for this client puts it into [`Effects::write`].
    Nothing,
    /// Nothing any more: close the connection.
    Close,
}

/// The room, with all of its clients' state that the rules need.
#[derive(Debug)]
pub struct Room {
    /// Those who are here, and those who leave and have lines to take yet; in the order in which
    /// they came.
    members: BTreeMap<Id, Member>,
    next_id: u64,
    next_guest: u64,
    idle: Option<Duration>,
    /// Nobody expires before this; whoever's time is put off stays in it until it has come.
    next_expiry: Option<Instant>,
}

#[derive(Debug)]
struct Member {
    name: String,
    /// The line of which the end has not come, at most [`LINE`] bytes and a `\r`.
    unfinished: Vec<u8>,
    /// The line of which the end has not come is too long, and said so.
    dropping: bool,
    /// Out of the room: not listed, not told anything; only its last lines go out.
    leaving: bool,
    /// When it has been idle, or leaving, for too long.
    expires: Option<Instant>,
    /// Lines, each block shared with all the others it goes to.
    outbox: VecDeque<Arc<[u8]>>,
    /// Bytes of the first block that are sent.
    sent: usize,
    /// Bytes in the outbox that are not sent; those in a write under way are counted.
    waiting: usize,
    /// Somebody sees to it: whoever was given the [`Effects`] with its id in `write`.
    writing: bool,
}

/// What one call says: to the others, and to the client that it is about.
#[derive(Default)]
struct Said {
    others: Vec<u8>,
    back: Vec<u8>,
}

impl Room {
    /// An empty room, whose clients may be idle for so long.
    #[must_use]
    pub fn new(idle: Option<Duration>) -> Self {
        Self { members: BTreeMap::new(), next_id: 0, next_guest: 1, idle, next_expiry: None }
    }

    /// A client has come.
    pub fn join(&mut self, now: Instant, effects: &mut Effects) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        let name = loop {
            let name = format!("guest{}", self.next_guest);
            self.next_guest += 1;
            if !self.is_taken(&name) {
                break name;
            }
        };
        let others = self.members.values().filter(|member| !member.leaving).count();
        let s = if others == 1 { "" } else { "s" };
        let welcome =
            format!("* you are {name}; {others} other{s} here; /help lists the commands\n");
        let joined = format!("* {name} joined\n");
        self.members.insert(id, Member::new(name));
        self.put_off(id, self.idle, now);
        self.publish(id, Said { others: joined.into(), back: welcome.into() }, effects);
        id
    }

    /// At most [`READ`] bytes have come from a client: a part of a line, or many lines.
    pub fn input(&mut self, id: Id, bytes: &[u8], now: Instant, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(&id).filter(|member| !member.leaving) else {
            return;
        };
        let mut line = mem::take(&mut member.unfinished);
        let mut dropping = member.dropping;
        let mut said = Said::default();
        self.put_off(id, self.idle, now);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (piece, ended) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            if !dropping {
                line.extend_from_slice(piece);
                if is_too_long(&line) {
                    said.back(&format!("! line too long (limit {LINE} bytes)"));
                    dropping = true;
                } else if ended {
                    self.line(id, &line, now, &mut said);
                }
                if dropping || ended {
                    line.clear();
                }
            }
            dropping &= !ended;
            // It asked for more than it can have taken, or it has quit: the rest does not count.
            if said.back.len() > BOUND || self.members.get(&id).is_none_or(|m| m.leaving) {
                break;
            }
        }
        if let Some(member) = self.members.get_mut(&id) {
            // A client in between two lines costs no buffer.
            member.unfinished = if line.is_empty() { Vec::new() } else { line };
            member.dropping = dropping;
        }
        self.publish(id, said, effects);
    }

    /// A client has sent all that it will (its FIN): a last line without an end counts, then the
    /// client leaves, and is closed when it has taken what is owed.
    pub fn end(&mut self, id: Id, now: Instant, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(&id).filter(|member| !member.leaving) else {
            return;
        };
        let line = mem::take(&mut member.unfinished);
        let mut said = Said::default();
        self.line(id, &line, now, &mut said);
        self.part(id, now, &mut said);
        self.publish(id, said, effects);
    }

    /// A client is lost: its connection failed, and is closed.
    pub fn leave(&mut self, id: Id, effects: &mut Effects) {
        let Some(member) = self.members.remove(&id) else { return };
        if !member.leaving {
            self.publish(id, Said { others: left(&member.name), ..Said::default() }, effects);
        }
    }

    /// Sees to those whose time is over; to be called at [`Room::next_expiry`], and at no cost
    /// before it.
    pub fn expire(&mut self, now: Instant, effects: &mut Effects) {
        if self.next_expiry.is_none_or(|next| now < next) {
            return;
        }
        let over = |(&id, member): (&Id, &Member)| {
            member.expires.filter(|&expires| expires <= now).map(|_| (id, member.leaving))
        };
        let expired: Vec<_> = self.members.iter().filter_map(over).collect();
        for (id, leaving) in expired {
            if leaving {
                self.members.remove(&id);
                effects.close.push(id);
            } else {
                let mut said = Said::default();
                let seconds = self.idle.unwrap_or_default().as_secs();
                said.back(&format!("* idle for {seconds} s, goodbye"));
                self.part(id, now, &mut said);
                self.publish(id, said, effects);
            }
        }
        self.next_expiry = self.members.values().filter_map(|member| member.expires).min();
    }

    /// When to call [`Room::expire`], if ever.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// For the writer of this client's lines: `sent` bytes of what the last call gave are sent (0
    /// before the first write); puts all that waits now into `bytes`, for one write.
    ///
    /// What is handed out still waits until a later call says that it is sent: a write that takes
    /// a part of it leaves nothing to remember, and one under way counts for the [`BOUND`].
    pub fn owed(&mut self, id: Id, sent: usize, bytes: &mut Vec<u8>) -> Owed {
        bytes.clear();
        let Some(member) = self.members.get_mut(&id) else { return Owed::Close };
        member.forget(sent);
        if member.waiting > 0 {
            bytes.reserve(member.waiting);
            let mut skip = member.sent;
            for block in &member.outbox {
                bytes.extend_from_slice(&block[skip..]);
                skip = 0;
            }
            return Owed::Lines;
        }
        member.writing = false;
        if !member.leaving {
            return Owed::Nothing;
        }
        self.members.remove(&id);
        Owed::Close
    }

    /// One line, without its end.
    fn line(&mut self, id: Id, line: &[u8], now: Instant, said: &mut Said) {
        let Ok(text) = std::str::from_utf8(line) else { return said.back("! not UTF-8") };
        // Nobody can send another's terminal an escape sequence.
        let text = if text.contains(char::is_control) {
            Cow::Owned(text.replace(char::is_control, ""))
        } else {
            Cow::Borrowed(text)
        };
        if text.is_empty() {
            return;
        }
        if !text.starts_with('/') {
            let Some(member) = self.members.get(&id) else { return };
            return said.others(&[&member.name, ": ", &text]);
        }
        let (command, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match command {
            "/nick" => self.rename(id, rest.trim(), said),
            "/who" => {
                let here = self.members.values().filter(|member| !member.leaving);
                let names: Vec<_> = here.map(|member| member.name.as_str()).collect();
                said.back(&format!("* here: {}", names.join(", ")));
            }
            "/quit" => {
                said.back("* bye");
                self.part(id, now, said);
            }
            "/help" => said.back("* /nick NAME, /who, /quit, /help; anything else is said to all"),
            _ => said.back(&format!("! unknown command {command}; try /help")),
        }
    }

    fn rename(&mut self, id: Id, name: &str, said: &mut Said) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=16).contains(&name.len()) || !name.chars().all(allowed) {
            return said.back("! a name is 1 to 16 letters, digits, - or _");
        }
        let taken = self.is_taken(name);
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.name == name {
            return said.back(&format!("! you are {name} already"));
        }
        if taken {
            return said.back(&format!("! {name} is taken"));
        }
        let news = format!("* {} is now {name}", member.name);
        name.clone_into(&mut member.name);
        said.others(&[&news]);
        said.back(&news);
    }

    fn is_taken(&self, name: &str) -> bool {
        self.members.values().any(|member| !member.leaving && member.name == name)
    }

    /// A client leaves, and may take what is owed; once, as its last line may have been `/quit`.
    fn part(&mut self, id: Id, now: Instant, said: &mut Said) {
        let Some(member) = self.members.get_mut(&id).filter(|member| !member.leaving) else {
            return;
        };
        member.leaving = true;
        member.unfinished = Vec::new();
        said.others.extend_from_slice(&left(&member.name));
        self.put_off(id, Some(LINGER), now);
    }

    /// Sets when a client's time is over.
    fn put_off(&mut self, id: Id, time: Option<Duration>, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.expires = time.map(|time| now + time);
        self.next_expiry = [self.next_expiry, member.expires].into_iter().flatten().min();
    }

    /// Hands out what was said: one block for the client itself, one for all others together.
    fn publish(&mut self, from: Id, said: Said, effects: &mut Effects) {
        let mut lost = Vec::new();
        if let Some(member) = self.members.get_mut(&from).filter(|_| !said.back.is_empty()) {
            member.give(from, &said.back.into(), effects, &mut lost);
        }
        let (mut news, mut not_to) = (said.others, Some(from));
        while !(news.is_empty() && lost.is_empty()) {
            if !news.is_empty() {
                let block = news.into();
                for (&id, member) in &mut self.members {
                    if Some(id) != not_to && !member.leaving {
                        member.give(id, &block, effects, &mut lost);
                    }
                }
            }
            // Those for whom that was too much leave, which is news again: to all that remain.
            (news, not_to) = (Vec::new(), None);
            for id in lost.drain(..) {
                let Some(member) = self.members.remove(&id) else { continue };
                effects.close.push(id);
                if !member.leaving {
                    news.extend_from_slice(&left(&member.name));
                }
            }
        }
        // Nothing is owed to it, so no writer will find out that it can be closed.
        if self.members.get(&from).is_some_and(|member| member.leaving && !member.writing) {
            self.members.remove(&from);
            effects.close.push(from);
        }
    }
}

impl Member {
    fn new(name: String) -> Self {
        Self {
            name,
            unfinished: Vec::new(),
            dropping: false,
            leaving: false,
            expires: None,
            outbox: VecDeque::new(),
            sent: 0,
            waiting: 0,
            writing: false,
        }
    }

    /// Puts lines into the outbox, and has somebody see to it.
    fn give(&mut self, id: Id, lines: &Arc<[u8]>, effects: &mut Effects, lost: &mut Vec<Id>) {
        self.outbox.push_back(Arc::clone(lines));
        self.waiting += lines.len();
        if self.waiting > BOUND {
            lost.push(id); // Pitfall: unbounded-queue
        } else if !mem::replace(&mut self.writing, true) {
            effects.write.push(id); // and nobody waits here. Pitfall: blocking-broadcast
        }
    }

    /// Takes what is sent out of the outbox.
    fn forget(&mut self, count: usize) {
        self.sent += count;
        self.waiting -= count;
        while let Some(block) = self.outbox.front().filter(|block| block.len() <= self.sent) {
            self.sent -= block.len();
            self.outbox.pop_front();
        }
        if self.outbox.is_empty() {
            // What was once a long queue does not cost memory for ever.
            self.outbox.shrink_to(16);
        }
    }
}

impl Said {
    fn back(&mut self, line: &str) {
        self.back.extend_from_slice(line.as_bytes());
        self.back.push(b'\n');
    }

    fn others(&mut self, parts: &[&str]) {
        for part in parts {
            self.others.extend_from_slice(part.as_bytes());
        }
        self.others.push(b'\n');
    }
}

fn left(name: &str) -> Vec<u8> {
    format!("* {name} left\n").into_bytes()
}

/// Of a line that may end in half a `\r\n`.
fn is_too_long(line: &[u8]) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line).len() > LINE
}

#[cfg(test)]
mod tests;
