//! One client of the chat, which compares each line with the room's order.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, bail, ensure};
use memchr::memchr_iter;
use mio::net::TcpStream;

use super::room::Room;

#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// The number in the name that the server gave it. `None` until it is greeted.
    guest: Option<usize>,
    /// The number of the guest that must join next.
    next_to_join: usize,
    /// The beginning of a line that is not complete yet.
    partial_line: Vec<u8>,
    /// How many lines of the room it has received; its own count as received.
    received: usize,
    /// Its index among the senders.
    sender: Option<usize>,
    /// The senders of lines that it received before any client that only receives did.
    early_lines: VecDeque<usize>,
}

impl Client {
    pub fn new(stream: TcpStream, sender: Option<usize>) -> Self {
        Self {
            stream,
            guest: None,
            next_to_join: 0,
            partial_line: Vec::new(),
            received: 0,
            sender,
            early_lines: VecDeque::new(),
        }
    }

    pub fn guest(&self) -> Option<usize> {
        self.guest
    }

    pub fn next_to_join(&self) -> usize {
        self.next_to_join
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads until the socket is empty, and checks the lines.
    pub fn on_ready(&mut self, room: &mut Room, buffer: &mut [u8]) -> Result<()> {
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
                if self.partial_line.is_empty() {
                    self.check_line(room, line)?;
                } else {
                    self.partial_line.extend_from_slice(line);
                    let line = std::mem::take(&mut self.partial_line);
                    self.check_line(room, &line)?;
                }
            }
            self.partial_line.extend_from_slice(&buffer[start..count]);
            if count < buffer.len() {
                return Ok(());
            }
        }
    }

    fn check_line(&mut self, room: &mut Room, line: &[u8]) -> Result<()> {
        let received = || format!("received {:?}", String::from_utf8_lossy(line));
        let Some(guest) = self.guest else {
            let guest = number(line, "* you are guest", ";").with_context(received)?;
            self.guest = Some(guest);
            self.next_to_join = guest + 1;
            return Ok(());
        };
        if line.starts_with(b"* ") {
            let joined = number(line, "* guest", " joined").with_context(received)?;
            let expected = self.next_to_join;
            ensure!(joined == expected, "{} instead of guest{expected} joining", received());
            self.next_to_join += 1;
            return Ok(());
        }
        self.check_early_lines(room)?;
        if self.received < room.end() {
            let expected = &room.line(self.received).text;
            ensure!(
                line == expected,
                "guest{guest} {} where others received {:?}",
                received(),
                String::from_utf8_lossy(expected)
            );
            self.note_received(room);
            return Ok(());
        }
        let Some(sender) = room.sender_of_new_line(line) else {
            bail!("guest{guest} {}: late, duplicated, or sent by no client", received());
        };
        if self.sender.is_some() {
            ensure!(!self.early_lines.contains(&sender), "guest{guest} {} twice", received());
            self.early_lines.push_back(sender);
            return Ok(());
        }
        room.append(sender);
        self.note_received(room);
        Ok(())
    }

    fn note_received(&mut self, room: &mut Room) {
        room.note_received(self.received);
        self.received += 1;
    }

    /// Counts its own lines, which are in the room's order but not sent to it.
    fn skip_own_lines(&mut self, room: &Room) {
        // All clients but its sender have received a line that the room has forgotten.
        self.received = self.received.max(room.start());
        while self.sender.is_some()
            && self.received < room.end()
            && self.sender == Some(room.line(self.received).sender)
        {
            self.received += 1;
        }
    }

    /// Compares the lines that came early with the room's order, as far as that is known.
    pub fn check_early_lines(&mut self, room: &mut Room) -> Result<()> {
        loop {
            self.skip_own_lines(room);
            if self.received == room.end() {
                return Ok(());
            }
            let Some(sender) = self.early_lines.pop_front() else { return Ok(()) };
            let expected = room.line(self.received).sender;
            ensure!(
                sender == expected,
                "guest{:?} received a line of sender {sender} where others received one of \
                 {expected}",
                self.guest
            );
            self.note_received(room);
        }
    }
}

/// Parses the number between two texts.
fn number(line: &[u8], before: &str, after: &str) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix(before)?;
    line.split_once(after)?.0.parse().ok()
}
