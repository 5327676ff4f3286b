//! The legend of a figure: only what occurs in it, with the calls of this server.

use svg::Node;
use svg::node::element::Group;

use super::steps::step_number;
use crate::call::{Call, Phase};
use crate::layout::{QUIET, text_width};
use crate::style::{Arrow, SMALL, WIDTH, blend, rectangle, tear, text};
use crate::syscalls::Direction;
use crate::timeline::{Message, Timeline};

enum Symbol {
    Bar(&'static str),
    Blend,
    Arrow(&'static str),
    Signal,
    Step,
    Cut,
}

pub struct Legend {
    entries: Vec<(Symbol, String)>,
}

impl Legend {
    pub fn new(timeline: &Timeline) -> Self {
        let mut legend = Self { entries: Vec::new() };
        legend.add_phases(timeline);
        legend.add_arrows(timeline);
        if !timeline.server.notes.steps.is_empty() {
            legend.add(Symbol::Step, "a step, numbered as in the header of the server's file");
        }
        legend.add(
            Symbol::Cut,
            "not to scale: long stretches are cut, durations stand below; strace slows every call",
        );
        legend
    }

    fn add(&mut self, symbol: Symbol, label: impl Into<String>) {
        self.entries.push((symbol, label.into()));
    }

    fn add_phases(&mut self, timeline: &Timeline) {
        let waits_long = |call: &Call| {
            let phases = call.phases();
            phases.iter().any(|(phase, from, to)| *phase == Phase::Waiting && to - from > QUIET)
        };
        let waits = names(timeline, waits_long);
        let copies = names(timeline, |call| call.copied.is_some() && !call.from_log);
        let logged = names(timeline, |call| call.from_log);
        let copies_after_wait =
            |call: &Call| call.blocked_until.is_some() && call.phase == Phase::Copying;
        if waits.is_empty() {
            self.add(Symbol::Bar("waiting"), "waiting: in no call");
        } else {
            self.add(Symbol::Bar("waiting"), format!("waiting, blocked in {waits}"));
        }
        if timeline.calls().any(copies_after_wait) {
            self.add(Symbol::Blend, "wakes up and copies, in the call that waited");
        }
        if !copies.is_empty() {
            self.add(Symbol::Bar("copying"), format!("copying, in {copies}"));
        }
        if !logged.is_empty() {
            let label = format!("no call: the server learns that {logged} is complete");
            self.add(Symbol::Bar("from-log"), label);
        }
        let would_block = timeline.calls().any(|call| call.would_block);
        let reason = if would_block { " (EAGAIN: it would block)" } else { "" };
        let label = format!("neither: returns at once{reason}; bare line: running");
        self.add(Symbol::Bar("neither"), label);
    }

    fn add_arrows(&mut self, timeline: &Timeline) {
        self.add(Symbol::Arrow("message"), "message");
        if timeline.messages.iter().any(|message| is_early(timeline, message)) {
            self.add(Symbol::Arrow("message early"), "message sent in an earlier part");
        }
        if timeline.threads.iter().any(|thread| !thread.signals.is_empty()) {
            self.add(Symbol::Signal, "signal");
        }
        if !timeline.wakes.is_empty() {
            let has_pair = timeline.calls().any(|call| call.pair.is_some());
            let pair = if has_pair { " (pair: connected sockets)" } else { "" };
            self.add(Symbol::Arrow("wake"), format!("one thread wakes another{pair}"));
        }
    }

    /// Draws the entries in lines from `top` on. Also returns the bottom.
    pub fn draw(&self, left: f64, top: f64) -> (Group, f64) {
        let mut x = left;
        let mut y = top;
        let mut group = Group::new();
        for (symbol, label) in &self.entries {
            let width = 26.0 + text_width(label, SMALL) + 16.0;
            if x + width > WIDTH - left && x > left {
                x = left;
                y += 18.0;
            }
            group.append(symbol.draw(x, y));
            group.append(text("muted", "start", x + 26.0, y + 10.0, label));
            x += width;
        }
        (group, y + 26.0)
    }
}

impl Symbol {
    fn draw(&self, x: f64, y: f64) -> Group {
        let middle = y + 6.0;
        let group = Group::new();
        match self {
            Self::Bar(class) => group.add(rectangle(class, x, y, 20.0, 12.0).set("rx", 2)),
            Self::Blend => group.add(blend(x, y, 20.0, 12.0)),
            Self::Arrow(class) => {
                group.add(Arrow { class, from: (x, middle), to: (x + 20.0, middle) }.draw())
            }
            Self::Signal => {
                let (from, to) = ((x + 10.0, y + 14.0), (x + 10.0, y - 1.0));
                group.add(Arrow { class: "signal", from, to }.draw())
            }
            Self::Step => group.add(step_number(x + 10.0, middle, "1")),
            Self::Cut => group.add(tear(x + 4.0, x + 16.0, y - 1.0, y + 13.0)),
        }
    }
}

/// Returns the names of up to four different calls that pass `test`.
fn names(timeline: &Timeline, test: impl Fn(&Call) -> bool) -> String {
    let mut names: Vec<&str> = Vec::new();
    for call in timeline.calls().filter(|call| !call.minor && test(call)) {
        if !names.contains(&call.name.as_str()) {
            names.push(&call.name);
        }
    }
    names.truncate(4);
    names.join(", ")
}

/// Whether a message was sent in an earlier part than the one in which the server took it.
fn is_early(timeline: &Timeline, message: &Message) -> bool {
    let part = |at| timeline.session.parts.partition_point(|part| part.start <= at);
    let call = timeline.call(message.call);
    let sent = timeline.session.clients[message.client].actions[message.action].at();
    message.direction == Direction::In && part(sent) < part(sent.max(call.start))
}
