//! The comparison of the models: one message that arrives after a wait, a row for each model.

use svg::node::element::Group;
use svg::{Document, Node};

use crate::call::{Call, Phase, Thread};
use crate::layout::text_width;
use crate::repeat::{Item, items};
use crate::session::{Action, ActionKind};
use crate::strace::Nanos;
use crate::style::{
    Arrow, SMALL, WIDTH, blend, class, duration, line, page, plate, rectangle, spot, tear, text,
    wrap,
};
use crate::syscalls::Direction;
use crate::timeline::Timeline;

const MARGIN: f64 = 14.0;
/// Where the wait begins. The names of the models stand to the left of it.
const LEFT: f64 = 196.0;
/// Where the message arrives. The time before it is cut, the time after it is to scale.
const ARRIVAL: f64 = LEFT + 172.0;
/// Where the wait is cut.
const CUT: f64 = ARRIVAL - 28.0;
const RIGHT: f64 = WIDTH - MARGIN - 8.0;
const BAR: f64 = 24.0;
/// Space between the bars of two threads, and the same if a signal passes there.
const GAP: f64 = 4.0;
const SIGNAL_GAP: f64 = 18.0;
/// Space between two rows.
const ROW: f64 = 32.0;
/// The longest time that is shown, so that one slow model does not shrink the others.
const MAX_SPAN: Nanos = 1_500_000;

/// A model.
struct Row<'a> {
    timeline: &'a Timeline,
    model: &'static str,
    threads: Vec<&'a Thread>,
    /// Start and end of the part of the session that is shown.
    from: Nanos,
    until: Nanos,
    arrival: Nanos,
    reply: Nanos,
    /// The time that the scale covers after the arrival.
    span: Nanos,
}

/// Draws the servers that stand for a model.
pub fn draw(timelines: &[Timeline]) -> Document {
    let mut rows: Vec<Row> = timelines.iter().filter_map(Row::new).collect();
    let longest = rows.iter().map(|row| row.reply - row.arrival).max().unwrap_or(MAX_SPAN);
    let span = (longest + longest / 20).min(MAX_SPAN);
    for row in &mut rows {
        row.span = span;
    }
    let (header, top) = draw_header(span);
    let height = top + rows.iter().map(|row| row.height() + ROW).sum::<f64>() + 10.0;
    let mut document = page(height, "The I/O models compared: who waits, who copies").add(header);
    let mut y = top;
    for row in &rows {
        document.append(row.draw(y));
        y += row.height() + ROW;
    }
    document
}

fn draw_header(span: Nanos) -> (Group, f64) {
    let mut group =
        Group::new().add(text("title", "start", MARGIN, 30.0, "Who waits, and who copies"));
    let summary = "One message after a wait, as each model handles it, drawn from traces of the running servers. \
                   The time before the message arrives is cut. The time after it is to scale (strace slows every call).";
    let mut y = 32.0;
    for part in wrap(summary, 13.0, WIDTH - 2.0 * MARGIN) {
        y += 19.0;
        group.append(text("idea", "start", MARGIN, y, &part));
    }
    y += 14.0;
    group.append(draw_legend(y));
    y += 40.0;
    let phases = [
        ("1. wait for the data", LEFT, ARRIVAL - 3.0),
        ("2. copy it (and write the reply)", ARRIVAL + 3.0, RIGHT),
    ];
    for (label, from, to) in phases {
        group.append(text("head", "middle", f64::midpoint(from, to), y - 5.0, label));
        group.append(line("rule", from, y + 1.0, to, y + 1.0));
    }
    // Round numbers, at most eight of them.
    let steps = [20_000, 50_000, 100_000, 200_000, 500_000];
    let step = steps.into_iter().find(|step| span / step <= 8).unwrap_or(1_000_000);
    for tick in (step..span).step_by(step as usize) {
        let x = ARRIVAL + (RIGHT - ARRIVAL) * tick as f64 / span as f64;
        group.append(line("rule", x, y + 1.0, x, y + 6.0));
        group.append(text("muted", "middle", x, y + 17.0, &duration(tick)));
    }
    group.append(text("muted", "end", ARRIVAL - 6.0, y + 17.0, "the message arrives"));
    (group, y + 30.0)
}

fn draw_legend(y: f64) -> Group {
    let entries = [
        ("waiting", "waiting: blocked in a call"),
        ("blend", "wakes up and copies, in the call that waited"),
        ("copying", "copying"),
        ("neither", "neither: returns at once"),
        ("signal", "signal"),
    ];
    let mut group = Group::new();
    let mut x = MARGIN;
    for (symbol, label) in entries {
        match symbol {
            "blend" => group.append(blend(x, y, 20.0, 12.0)),
            "signal" => {
                let (from, to) = ((x + 10.0, y + 14.0), (x + 10.0, y - 1.0));
                group.append(Arrow { class: "signal", from, to }.draw());
            }
            class => group.append(rectangle(class, x, y, 20.0, 12.0).set("rx", 2)),
        }
        group.append(text("muted", "start", x + 26.0, y + 10.0, label));
        x += 26.0 + text_width(label, SMALL) + 18.0;
    }
    group
}

impl<'a> Row<'a> {
    fn new(timeline: &'a Timeline) -> Option<Self> {
        let model = timeline.server.notes.model?;
        let actions = &timeline.session.clients.first()?.actions;
        let is_sent = |action: &&Action| matches!(action.kind, ActionKind::Send(_));
        let is_received = |action: &&Action| matches!(action.kind, ActionKind::Receive(_));
        let arrival = actions.iter().find(is_sent)?.start;
        let reply = actions.iter().find(is_received)?.at();
        let part = timeline.session.parts.iter().rposition(|part| part.start < arrival)?;
        // The threads that did something between the message and its reply.
        let took_part = |thread: &&Thread| {
            thread.calls.iter().any(|call| {
                (arrival..reply).contains(&call.start) || call.blocked_until == Some(arrival)
            })
        };
        Some(Self {
            timeline,
            model,
            threads: timeline.threads.iter().filter(took_part).collect(),
            from: timeline.session.parts[part].start,
            until: timeline.session.part_end(part),
            arrival,
            reply,
            span: MAX_SPAN,
        })
    }

    fn height(&self) -> f64 {
        self.threads.len() as f64 * self.lane() - (self.lane() - BAR) + GAP
    }

    /// The height of a lane: from one thread's bars to those of the next one.
    fn lane(&self) -> f64 {
        let mut signals = self.threads.iter().flat_map(|thread| &thread.signals);
        BAR + if signals.any(|signal| signal.sender.is_some()) { SIGNAL_GAP } else { GAP }
    }

    fn place(&self, time: Nanos) -> f64 {
        if time < self.arrival {
            let part = (time - self.from) as f64 / (self.arrival - self.from) as f64;
            LEFT + (ARRIVAL - LEFT) * part.max(0.0)
        } else {
            let part = (time - self.arrival) as f64 / self.span as f64;
            ARRIVAL + (RIGHT - ARRIVAL) * part.min(1.0)
        }
    }

    fn draw(&self, top: f64) -> Group {
        let bottom = top + self.height();
        let width = WIDTH - 2.0 * MARGIN + 12.0;
        let panel = rectangle("panel", MARGIN - 6.0, top - 6.0, width, self.height() + ROW - 4.0);
        let mut group = Group::new().add(panel.set("rx", 6));
        let mut y = top - 2.0;
        for part in wrap(self.model, 13.5, LEFT - MARGIN - 62.0) {
            y += 14.5;
            group.append(text("head", "start", MARGIN, y, &part));
        }
        group.append(text("muted", "start", MARGIN, y + 14.0, self.timeline.server.name()));
        for (index, thread) in self.threads.iter().enumerate() {
            let y = top + index as f64 * self.lane();
            if self.threads.len() > 1 {
                group.append(text("muted", "end", LEFT - 6.0, y + 16.0, &thread.role));
            }
            group.append(self.draw_thread(thread, y));
        }
        group.append(self.draw_signals(top));
        group.append(tear(CUT + 2.0, CUT + 12.0, top - 3.0, bottom));
        let message = Arrow { class: "message", from: (ARRIVAL, top - 6.0), to: (ARRIVAL, top) };
        group.append(message.draw());
        if self.reply - self.arrival < self.span {
            let x = self.place(self.reply);
            group.append(spot("spot", x, bottom + 2.0, 3.5));
            let log = if self.timeline.server.notes.kernel_copies { ", with its log" } else { "" };
            let label = format!("reply after {}{log}", duration(self.reply - self.arrival));
            let (anchor, x) = if x + text_width(&label, SMALL) + 10.0 > RIGHT {
                ("end", x - 8.0)
            } else {
                ("start", x + 8.0)
            };
            group.append(text("muted", anchor, x, bottom + 13.0, &label));
        }
        group.append(text("", "start", LEFT, bottom + 13.0, &self.sentence()));
        group
    }

    fn draw_thread(&self, thread: &Thread, y: f64) -> Group {
        let mut bars = Group::new().add(line("life", LEFT, y + BAR / 2.0, RIGHT, y + BAR / 2.0));
        let mut labels = Group::new();
        let end = self.until.min(self.arrival + self.span);
        let items = items(&thread.calls, self.from, end);
        // How far to the right the lane is in use.
        let mut used = LEFT;
        for (index, item) in items.iter().enumerate() {
            match item {
                Item::Call(call) if thread.calls[*call].from_log => {}
                Item::Call(call) => {
                    let call = &thread.calls[*call];
                    // A name that does not fit into its bar may extend to the next one.
                    let next = items[index + 1..].iter().map(|item| &thread.calls[item.first()]);
                    let mut next = next.filter(|next| !next.from_log);
                    let limit = next.next().map_or(RIGHT, |next| self.place(next.start));
                    self.draw_bar(call, y, &mut bars);
                    labels.append(self.label_call(call, &mut used, limit, y));
                }
                Item::Repeated { calls, .. } => {
                    let calls = &thread.calls[calls.clone()];
                    let from = self.place(calls[0].start);
                    used = self.place(calls[calls.len() - 1].end);
                    let count = ((used - from) / 4.0).max(1.0) as usize;
                    for tooth in 0..count {
                        let phase = calls[tooth * calls.len() / count].phase;
                        let x = from + tooth as f64 * 4.0;
                        bars.append(rectangle(class(phase), x, y, 2.8, BAR));
                    }
                }
            }
        }
        let before =
            |call: &&Call| call.would_block && call.start >= self.from && call.end < self.arrival;
        let count = thread.calls.iter().filter(before).count();
        if count > 2 {
            let label = format!("EAGAIN, {count} times");
            let left = f64::midpoint(LEFT, CUT) - text_width(&label, SMALL) / 2.0;
            labels.append(plate(left, y + 16.0, &label));
        }
        bars.add(labels)
    }

    fn draw_bar(&self, call: &Call, y: f64, bars: &mut Group) {
        for (phase, from, to) in call.phases() {
            if from >= self.arrival + self.span {
                continue;
            }
            let x = self.place(from);
            let width = (self.place(to) - x).max(1.5);
            if phase == Phase::Copying && call.blocked_until.is_some() {
                bars.append(blend(x, y, width, BAR));
            } else {
                bars.append(rectangle(class(phase), x, y, width, BAR));
            }
        }
        let x = self.place(call.start);
        bars.append(rectangle("edge", x, y, (self.place(call.end) - x).max(1.5), BAR));
    }

    /// Puts the name of a call into its bar: into the part that is to scale, or into the wait left
    /// of the cut. The name of a call that copies may also stand beside its bar, between `used`,
    /// which is updated, and `limit`.
    fn label_call(&self, call: &Call, used: &mut f64, limit: f64, y: f64) -> Group {
        let x = self.place(call.start);
        let end = self.place(call.end);
        let width = text_width(&call.name, SMALL);
        let fits = |(from, to): &(f64, f64)| to - from > width + 4.0;
        let free_from = used.max(ARRIVAL);
        *used = end;
        let is_copy = x >= ARRIVAL && call.phase == Phase::Copying;
        if let Some((from, to)) = [(x, end.min(CUT)), (x.max(ARRIVAL), end)].into_iter().find(fits)
        {
            let middle = f64::midpoint(from, to);
            Group::new().add(text("inside", "middle", middle, y + 16.0, &call.name))
        } else if is_copy && x - free_from > width + 8.0 {
            plate(x - 4.0 - width, y + 16.0, &call.name)
        } else if is_copy && limit - end > width + 8.0 {
            *used = end + width + 6.0;
            plate(end + 4.0, y + 16.0, &call.name)
        } else {
            Group::new()
        }
    }

    /// Draws the signals between the message and its reply.
    fn draw_signals(&self, top: f64) -> Group {
        let mut group = Group::new();
        let lane_of = |tid: i32| self.threads.iter().position(|thread| thread.tid == tid);
        for (lane, thread) in self.threads.iter().enumerate() {
            let y = top + lane as f64 * self.lane();
            let is_shown = |at: Nanos| (self.arrival..self.reply).contains(&at);
            for signal in thread.signals.iter().filter(|signal| is_shown(signal.at)) {
                let x = self.place(signal.at);
                let sender = signal.sender.and_then(|id| {
                    let lane = lane_of(self.timeline.threads[id.thread].tid)?;
                    Some((lane, self.timeline.call(id).start))
                });
                let (from, to) = match sender {
                    Some((below, sent)) if below > lane => {
                        let from = top + below as f64 * self.lane();
                        ((self.place(sent) + 3.0, from), (x, y + BAR))
                    }
                    _ => ((x, y + BAR + 4.0), (x, y + BAR / 2.0)),
                };
                group.append(Arrow { class: "signal", from, to }.draw());
                // The name stands between two lanes, or on the lane before the next bar.
                let next = thread.calls.iter().find(|call| call.start > signal.at);
                let next = next.map_or(RIGHT, |next| self.place(next.start));
                let width = text_width(&signal.name, SMALL);
                let (left, label_y) = match sender {
                    Some(_) => (x + 6.0, y + BAR + 13.0),
                    None if x + width + 10.0 < next => (x + 6.0, y + BAR / 2.0 + 4.0),
                    None => (x - 6.0 - width, y + BAR / 2.0 + 4.0),
                };
                group.append(plate(left, label_y, &signal.name));
            }
        }
        group
    }

    /// Says in words where the server waits and which call copies.
    fn sentence(&self) -> String {
        let mut waits = Vec::new();
        let mut copies = Vec::new();
        for thread in &self.threads {
            let with_role = |name: &str| {
                if self.threads.len() > 1 {
                    format!("{name} ({})", thread.role)
                } else {
                    name.to_owned()
                }
            };
            for call in &thread.calls {
                let is_waiting = (call.phases().iter()).any(|&(phase, from, to)| {
                    phase == Phase::Waiting && from < self.arrival && to >= self.arrival
                });
                if is_waiting && call.name != "futex" {
                    waits.push(with_role(&call.name));
                }
                let is_now = (self.arrival..=self.reply).contains(&call.end);
                if is_now && matches!(call.copied, Some((Direction::In, 1..))) {
                    copies.push(if call.from_log {
                        "the kernel".to_owned()
                    } else {
                        with_role(&call.name)
                    });
                }
            }
        }
        let copies = copies.join(" and ");
        let waits = if waits.is_empty() {
            "waits in no call".to_owned()
        } else {
            format!("waits in {}", waits.join(" and "))
        };
        let is_same = !copies.is_empty() && waits.contains(&copies);
        let same = if is_same { ", the same call" } else { "" };
        format!("{waits}; copied by {copies}{same}")
    }
}
