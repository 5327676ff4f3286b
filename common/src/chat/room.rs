//! The room: its clients, their names and their output.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::text::{Line, LineSplitter, clean, is_valid_name};
use super::{
    Computation, Effects, Id, Input, LINGER_TIME, MAX_DISCARDED, MAX_DISMISSED, MAX_LINE,
    MAX_NUMBER, MAX_PENDING, Output, SECOND_LOOK, WriterStep,
};

/// The chat room: its clients, and what the rules need to know of them.
#[derive(Debug)]
pub struct Room {
    /// Clients that are present or departing, in the order in which they connected.
    members: BTreeMap<Id, Member>,
    next_id: u64,
    next_guest: u64,
    idle: Option<Duration>,
    /// At or before the earliest deadline: postponing a deadline does not update it.
    next_deadline: Option<Instant>,
    /// Members with more than [`MAX_PENDING`] bytes of output, to be disconnected by this call.
    overflowed: Vec<Id>,
}

#[derive(Debug)]
struct Member {
    name: String,
    phase: Phase,
    lines: LineSplitter,
    /// When the client is idle for too long, or has been departing for too long.
    deadline: Option<Instant>,
    /// Its deadline has passed once, and it was granted a [`SECOND_LOOK`].
    seems_idle: bool,
    /// Output that no writer has taken yet.
    queue: Output,
    /// Bytes of output that have not been written, whether they are in `queue` or with the writer.
    pending: usize,
    /// The client is in [`Effects::write`], or its writer has not yet got [`WriterStep::Wait`].
    has_writer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is in the room: it is listed and gets all lines.
    Present,
    /// It has left the room, and its connection is still open.
    Departing { received_fin: bool, discarded: usize },
}

/// The lines that one call produces.
#[derive(Default)]
struct Lines {
    /// For the client that the call is about.
    reply: Vec<u8>,
    /// For all other clients.
    broadcast: Vec<u8>,
}

impl Room {
    /// Makes an empty room. It dismisses a client that sends nothing for `idle`; `None` means
    /// never.
    #[must_use]
    pub fn new(idle: Option<Duration>) -> Self {
        Self {
            members: BTreeMap::new(),
            next_id: 0,
            next_guest: 1,
            idle,
            next_deadline: None,
            overflowed: Vec::new(),
        }
    }

    /// A client has connected.
    pub fn join(&mut self, now: Instant, effects: &mut Effects) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        let name = self.free_guest_name();
        let others = self.members.values().filter(|member| member.is_present()).count();
        let plural = if others == 1 { "" } else { "s" };
        let mut lines = Lines::default();
        lines.reply(format_args!(
            "* you are {name}; {others} other{plural} here; /help lists the commands"
        ));
        lines.broadcast(format_args!("* {name} joined"));
        self.members.insert(id, Member::new(name));
        self.set_deadline(id, self.idle, now);
        self.publish(id, lines, effects);
        id
    }

    /// At most [`READ_SIZE`](super::READ_SIZE) bytes have arrived from a client: lines and parts of
    /// lines.
    ///
    /// Processes `input` up to a line that asks for a computation, or up to the end. It ignores the
    /// rest if the client departs or is disconnected.
    ///
    /// For a computation, the server calls [`Computation::run`] with the room unlocked, passes the
    /// result to [`Room::reply`], and calls `input` again with what is left of `input`. Until then,
    /// it must not pass on newer input of this client: the lines of a client must stay in order.
    #[must_use]
    pub fn input(
        &mut self,
        id: Id,
        input: &mut &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Computation> {
        self.discard_if_departing(id, input.len(), effects);
        self.set_deadline_if_present(id, now);
        let mut lines = Lines::default();
        let mut computation = None;
        while let Some(member) = self.present_mut(id) {
            let Some(line) = member.lines.next(input) else { break };
            match line {
                Line::Complete(line) => computation = self.line(id, &line, now, &mut lines),
                Line::TooLong => {
                    lines.reply(format_args!("! line too long (limit {MAX_LINE} bytes)"));
                }
            }
            // The client will be disconnected if it asks for more than may be pending.
            if computation.is_some() || lines.reply.len() > MAX_PENDING {
                break;
            }
        }
        self.publish(id, lines, effects);
        computation
    }

    /// Processes `input`, whatever it is. If a line asks for a computation, returns it, and leaves
    /// in `input` what must be processed after it. See [`Room::input`].
    #[must_use]
    pub fn process(
        &mut self,
        id: Id,
        input: &mut Input,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Computation> {
        match input {
            Input::Bytes(bytes) => {
                let mut rest = &bytes[..];
                let computation = self.input(id, &mut rest, now, effects);
                // Without a computation, nothing is left: what the room ignores is processed too.
                let left = if computation.is_some() { rest.len() } else { 0 };
                let processed = bytes.len() - left;
                bytes.drain(..processed);
                computation
            }
            Input::Fin => self.end_of_input(id, now, effects),
            Input::Failure => {
                self.disconnect(id, effects);
                None
            }
        }
    }

    /// The computation that a line of this client asked for has the result `text`.
    pub fn reply(&mut self, id: Id, text: &str, effects: &mut Effects) {
        let mut lines = Lines::default();
        if self.present_mut(id).is_some() {
            lines.reply(format_args!("* {text}"));
        }
        self.publish(id, lines, effects);
    }

    /// A client has sent its FIN. An unterminated last line counts; then the client departs.
    ///
    /// If the last line asks for a computation, the server passes the result to [`Room::reply`],
    /// and then calls this function again.
    #[must_use]
    pub fn end_of_input(
        &mut self,
        id: Id,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Computation> {
        let mut lines = Lines::default();
        let mut computation = None;
        if let Some(member) = self.present_mut(id) {
            let last_line = member.lines.finish();
            computation = self.line(id, &last_line, now, &mut lines);
        }
        if computation.is_none() {
            self.depart(id, now, &mut lines);
            if let Some(member) = self.members.get_mut(&id) {
                member.phase = Phase::Departing { received_fin: true, discarded: 0 };
            }
        }
        self.publish(id, lines, effects);
        // Normally the writer closes it after the last byte. Without output there is no writer, so
        // close here.
        if let Some(member) = self.members.get(&id) {
            if !member.is_present() && !member.has_writer {
                self.close(id, effects);
            }
        }
        computation
    }

    /// The connection of a client has failed. The server closes it by itself: the client is not
    /// added to [`Effects::close`].
    pub fn disconnect(&mut self, id: Id, effects: &mut Effects) {
        let Some(member) = self.members.remove(&id) else { return };
        if member.is_present() {
            let mut lines = Lines::default();
            lines.broadcast(format_args!("* {} left", member.name));
            self.publish(id, lines, effects);
        }
    }

    /// For the writer of a client. Reports that the socket took `written` bytes since the last
    /// call, and moves the output that is queued now to the end of `output`.
    ///
    /// `output` belongs to the writer, which removes from it what was written
    /// ([`write_output`](super::write_output) does that). It still counts as pending until it is
    /// reported here.
    pub fn take_output(&mut self, id: Id, written: usize, output: &mut Output) -> WriterStep {
        let Some(member) = self.members.get_mut(&id) else { return WriterStep::Close };
        member.pending -= written;
        output.append(&mut member.queue);
        if member.pending > 0 {
            return WriterStep::Write;
        }
        member.has_writer = false;
        match member.phase {
            Phase::Present => WriterStep::Wait,
            Phase::Departing { received_fin: false, .. } => WriterStep::ShutDown,
            Phase::Departing { received_fin: true, .. } => {
                self.members.remove(&id);
                WriterStep::Close
            }
        }
    }

    /// When to call [`Room::expire`] next, if at all.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Closes the connections of departing clients whose time is over. Returns the clients that are
    /// idle at the second look too, at most `MAX_DISMISSED`. If there are more,
    /// [`Room::next_deadline`] has passed already: the server writes, and then calls this again.
    ///
    /// The room knows only what was passed to [`Room::input`]. So the server must check whether
    /// unprocessed input of these clients is in the socket or in a queue. It calls
    /// [`Room::dismiss`] for those that have none.
    #[must_use]
    pub fn expire(&mut self, now: Instant, effects: &mut Effects) -> Vec<Id> {
        let mut idle = Vec::new();
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return idle;
        }
        let mut overdue = Vec::new();
        for (&id, member) in &mut self.members {
            if member.deadline.is_none_or(|deadline| now < deadline) {
                continue;
            }
            if !member.is_present() {
                overdue.push(id);
                continue;
            }
            if member.seems_idle {
                if idle.len() == MAX_DISMISSED {
                    continue; // its deadline stays in the past
                }
                idle.push(id);
            }
            member.seems_idle = true;
            member.deadline = Some(now + SECOND_LOOK);
        }
        for id in overdue {
            self.close(id, effects);
        }
        self.next_deadline = self.members.values().filter_map(|member| member.deadline).min();
        idle
    }

    /// A client that [`Room::expire`] returned is idle: it gets a last line, and departs.
    pub fn dismiss(&mut self, id: Id, now: Instant, effects: &mut Effects) {
        // Another thread may have passed on input since.
        if !self.members.get(&id).is_some_and(|member| member.seems_idle) {
            return;
        }
        let mut lines = Lines::default();
        let seconds = self.idle.unwrap_or_default().as_secs();
        lines.reply(format_args!("* idle for {seconds} s, goodbye"));
        self.depart(id, now, &mut lines);
        self.publish(id, lines, effects);
    }

    /// Handles one line, without its line end.
    fn line(
        &mut self,
        id: Id,
        line: &[u8],
        now: Instant,
        lines: &mut Lines,
    ) -> Option<Computation> {
        let Ok(text) = std::str::from_utf8(line) else {
            lines.reply(format_args!("! not UTF-8"));
            return None;
        };
        let text = clean(text);
        if text.is_empty() {
            return None;
        }
        if !text.starts_with('/') {
            let member = self.members.get(&id)?;
            lines.broadcast(format_args!("{}: {text}", member.name));
            return None;
        }
        let (command, argument) = text.split_once(' ').unwrap_or((&text, ""));
        match command {
            "/nick" => self.rename(id, argument.trim(), lines),
            "/who" => {
                let present = self.members.values().filter(|member| member.is_present());
                let names: Vec<_> = present.map(|member| member.name.as_str()).collect();
                lines.reply(format_args!("* here: {}", names.join(", ")));
            }
            "/factor" => match Computation::parse(argument.trim()) {
                Some(computation) => return Some(computation),
                None => {
                    lines.reply(format_args!("! /factor takes a number from 2 to {MAX_NUMBER}"));
                }
            },
            "/quit" => {
                lines.reply(format_args!("* bye"));
                self.depart(id, now, lines);
            }
            "/help" => lines.reply(format_args!(
                "* /nick NAME, /who, /factor N, /quit, /help; anything else is said to all"
            )),
            _ => lines.reply(format_args!("! unknown command {command}; try /help")),
        }
        None
    }

    fn rename(&mut self, id: Id, name: &str, lines: &mut Lines) {
        if !is_valid_name(name) {
            return lines.reply(format_args!("! a name is 1 to 16 letters, digits, - or _"));
        }
        let is_taken = self.is_taken(name);
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.name == name {
            lines.reply(format_args!("! you are {name} already"));
        } else if is_taken {
            lines.reply(format_args!("! {name} is taken"));
        } else {
            let announcement = format!("* {} is now {name}", member.name);
            name.clone_into(&mut member.name);
            lines.reply(format_args!("{announcement}"));
            lines.broadcast(format_args!("{announcement}"));
        }
    }

    fn free_guest_name(&mut self) -> String {
        loop {
            let name = format!("guest{}", self.next_guest);
            self.next_guest += 1;
            if !self.is_taken(&name) {
                return name;
            }
        }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.members.values().any(|member| member.is_present() && member.name == name)
    }

    fn present_mut(&mut self, id: Id) -> Option<&mut Member> {
        self.members.get_mut(&id).filter(|member| member.is_present())
    }

    /// Makes a present client depart.
    fn depart(&mut self, id: Id, now: Instant, lines: &mut Lines) {
        let Some(member) = self.present_mut(id) else { return };
        member.phase = Phase::Departing { received_fin: false, discarded: 0 };
        member.lines = LineSplitter::default();
        lines.broadcast(format_args!("* {} left", member.name));
        self.set_deadline(id, Some(LINGER_TIME), now);
    }

    /// Discards input of a departing client, up to a limit.
    fn discard_if_departing(&mut self, id: Id, count: usize, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Phase::Departing { discarded, .. } = &mut member.phase else { return };
        *discarded += count;
        if *discarded > MAX_DISCARDED {
            self.close(id, effects);
        }
    }

    fn close(&mut self, id: Id, effects: &mut Effects) {
        self.members.remove(&id);
        effects.close.push(id);
    }

    fn set_deadline_if_present(&mut self, id: Id, now: Instant) {
        if self.present_mut(id).is_some() {
            self.set_deadline(id, self.idle, now);
        }
    }

    fn set_deadline(&mut self, id: Id, time: Option<Duration>, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.seems_idle = false;
        member.deadline = time.map(|time| now + time);
        self.next_deadline = [self.next_deadline, member.deadline].into_iter().flatten().min();
    }

    /// Queues the reply for client `id` and the broadcast for all others: one block of memory each.
    fn publish(&mut self, id: Id, lines: Lines, effects: &mut Effects) {
        if !lines.reply.is_empty() {
            if let Some(member) = self.members.get_mut(&id) {
                member.enqueue(id, &lines.reply.into(), effects, &mut self.overflowed);
            }
        }
        self.broadcast(Some(id), lines.broadcast, effects);
        // Each client that is disconnected here causes a line for the others. This line can make
        // the output of another client too long.
        while !self.overflowed.is_empty() {
            let mut lines = Lines::default();
            for id in mem::take(&mut self.overflowed) {
                let Some(member) = self.members.remove(&id) else { continue };
                effects.close.push(id);
                if member.is_present() {
                    lines.broadcast(format_args!("* {} left", member.name));
                }
            }
            self.broadcast(None, lines.broadcast, effects);
        }
    }

    fn broadcast(&mut self, except: Option<Id>, text: Vec<u8>, effects: &mut Effects) {
        if text.is_empty() {
            return;
        }
        effects.broadcast += text.len();
        let block = text.into();
        for (&id, member) in &mut self.members {
            if Some(id) != except && member.is_present() {
                member.enqueue(id, &block, effects, &mut self.overflowed);
            }
        }
    }
}

impl Member {
    fn new(name: String) -> Self {
        Self {
            name,
            phase: Phase::Present,
            lines: LineSplitter::default(),
            deadline: None,
            seems_idle: false,
            queue: Output::default(),
            pending: 0,
            has_writer: false,
        }
    }

    fn is_present(&self) -> bool {
        self.phase == Phase::Present
    }

    /// Adds lines to the output, and asks for a writer if there is none.
    fn enqueue(
        &mut self,
        id: Id,
        lines: &Arc<[u8]>,
        effects: &mut Effects,
        overflowed: &mut Vec<Id>,
    ) {
        self.queue.push(Arc::clone(lines));
        self.pending += lines.len();
        if self.pending > MAX_PENDING {
            overflowed.push(id); // Pitfall: unbounded-queue
        } else if !self.has_writer {
            self.has_writer = true;
            effects.write.push(id); // and no write here. Pitfall: blocking-broadcast
        }
    }
}

impl Lines {
    fn reply(&mut self, line: fmt::Arguments<'_>) {
        append_line(&mut self.reply, line);
    }

    fn broadcast(&mut self, line: fmt::Arguments<'_>) {
        append_line(&mut self.broadcast, line);
    }
}

fn append_line(text: &mut Vec<u8>, line: fmt::Arguments<'_>) {
    let _ = writeln!(text, "{line}"); // writing to a `Vec` does not fail
}

#[cfg(test)]
mod tests;
