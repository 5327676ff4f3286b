//! The lines of the room, in the order in which the server sends them.

use std::collections::VecDeque;
use std::time::Instant;

use crate::clients::Tally;

#[derive(Debug)]
pub struct Room {
    clients: usize,
    /// The lines that some client has not yet received.
    lines: VecDeque<Line>,
    /// How many lines came before those.
    forgotten: usize,
    senders: Vec<Sender>,
    /// The senders whose last line has reached all clients.
    completed: Vec<usize>,
    tally: Tally,
}

/// A line that a client has received.
#[derive(Debug)]
pub struct Line {
    pub sender: usize,
    pub text: Vec<u8>,
    sent: Instant,
    /// How many clients have received it.
    receivers: usize,
}

#[derive(Debug, Default)]
struct Sender {
    /// Its last line, as the others will receive it, until the first client has received it.
    new_line: Option<(Vec<u8>, Instant)>,
    /// Whether some client has not yet received its last line.
    in_flight: bool,
    /// How many lines it has sent.
    lines: u64,
}

impl Room {
    pub fn new(clients: usize, senders: usize) -> Self {
        Self {
            clients,
            lines: VecDeque::new(),
            forgotten: 0,
            senders: (0..senders).map(|_| Sender::default()).collect(),
            completed: Vec::new(),
            tally: Tally::new(),
        }
    }

    pub fn senders(&self) -> usize {
        self.senders.len()
    }

    pub fn next_line_number(&self, sender: usize) -> u64 {
        self.senders[sender].lines + 1
    }

    pub fn note_sent(&mut self, sender: usize, line: Vec<u8>) {
        let sender = &mut self.senders[sender];
        sender.lines += 1;
        sender.new_line = Some((line, Instant::now()));
        sender.in_flight = true;
    }

    pub fn is_in_flight(&self, sender: usize) -> bool {
        self.senders[sender].in_flight
    }

    pub fn has_lines_in_flight(&self) -> bool {
        self.senders.iter().any(|sender| sender.in_flight)
    }

    pub fn take_completed(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.completed)
    }

    pub fn take_tally(&mut self) -> Tally {
        std::mem::replace(&mut self.tally, Tally::new())
    }

    /// Whether every client has received every line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The number of the first line that is still kept.
    pub fn start(&self) -> usize {
        self.forgotten
    }

    /// The number of lines in all.
    pub fn end(&self) -> usize {
        self.forgotten + self.lines.len()
    }

    /// The line with this number, which must be between [`Room::start`] and [`Room::end`].
    pub fn line(&self, number: usize) -> &Line {
        &self.lines[number - self.forgotten]
    }

    /// Returns the sender whose new line this is.
    pub fn sender_of_new_line(&self, text: &[u8]) -> Option<usize> {
        let is_same =
            |sender: &Sender| sender.new_line.as_ref().is_some_and(|(line, _)| line == text);
        self.senders.iter().position(is_same)
    }

    /// Appends the new line of a sender to the room's order.
    pub fn append(&mut self, sender: usize) {
        if let Some((text, sent)) = self.senders[sender].new_line.take() {
            self.lines.push_back(Line { sender, text, sent, receivers: 0 });
        }
    }

    /// Notes that one more client has received a line.
    pub fn note_received(&mut self, number: usize) {
        let line = &mut self.lines[number - self.forgotten];
        line.receivers += 1;
        self.tally.messages += 1;
        if line.receivers == self.clients - 1 {
            self.tally.record(line.sent.elapsed());
            self.senders[line.sender].in_flight = false;
            self.completed.push(line.sender);
        }
    }

    /// Drops the lines that all clients have received.
    pub fn forget_complete_lines(&mut self) {
        while self.lines.front().is_some_and(|line| line.receivers == self.clients - 1) {
            self.lines.pop_front();
            self.forgotten += 1;
        }
    }

    /// Describes the first line that some client has not received, for an error message.
    pub fn describe_first_missing(&self) -> String {
        let Some(line) = self.lines.front() else { return String::new() };
        let text = String::from_utf8_lossy(&line.text);
        format!(": {} of {} clients received {text:?}", line.receivers, self.clients - 1)
    }
}
