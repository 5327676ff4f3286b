//! The models under one another: one message that arrives after a wait.

use svg::Document;
use svg::node::element::Group;

use crate::layout::text_width;
use crate::play::{What, moment};
use crate::repeat::{Item, items};
use crate::story::{Call, Direction, Phase, Story, Thread};
use crate::strace::Nanos;
use crate::style::{
    Arrow, SMALL, WIDTH, blend, class, duration, line, page, plate, rectangle, spot, tear, text,
    wrap,
};

const MARGIN: f64 = 14.0;
/// Where the wait begins; the models' names stand before it.
const LEFT: f64 = 196.0;
/// Where the message comes: before it the time is cut, from here on it is to scale.
const COMES: f64 = LEFT + 172.0;
/// Where the wait is cut.
const CUT: f64 = COMES - 28.0;
const RIGHT: f64 = WIDTH - MARGIN - 8.0;
const BAR: f64 = 24.0;
const BETWEEN: f64 = 4.0;
/// The same where there is a signal between them.
const FOR_SIGNAL: f64 = 18.0;
const ROW: f64 = 32.0;
/// No figure is stretched for the sake of one slow model.
const LONGEST: Nanos = 1_500_000;

/// What there is to show of a model.
struct Row<'a> {
    story: &'a Story,
    model: &'static str,
    threads: Vec<&'a Thread>,
    act: Nanos,
    comes: Nanos,
    answered: Nanos,
    until: Nanos,
}

/// Draws those of `stories` that stand for a model; the act with the silence in each.
pub fn draw(stories: &[Story]) -> Document {
    let rows: Vec<Row> = stories.iter().filter_map(Row::new).collect();
    let span = rows.iter().map(|row| row.answered - row.comes).max().unwrap_or(LONGEST);
    let span = (span + span / 20).min(LONGEST);
    let (header, top) = header(span);
    let height = top + rows.iter().map(|row| row.height() + ROW).sum::<f64>() + 10.0;
    let mut document =
        page(height, "The I/O models compared: who waits, and who copies").add(header);
    let mut y = top;
    for row in &rows {
        document = document.add(row.draw(y, span));
        y += row.height() + ROW;
    }
    document
}

fn header(span: Nanos) -> (Group, f64) {
    let mut group =
        Group::new().add(text("title", "start", MARGIN, 30.0, "Who waits, and who copies"));
    let idea = "One message after a wait, as each model handles it: drawn from traces of the running servers. \
                Before the message comes the time is cut; after it, it is to scale (strace makes every call slower).";
    let mut y = 32.0;
    for part in wrap(idea, 13.0, WIDTH - 2.0 * MARGIN) {
        y += 19.0;
        group = group.add(text("idea", "start", MARGIN, y, &part));
    }
    y += 14.0;
    let mut x = MARGIN;
    for (index, label) in [
        "waiting: blocked in a call",
        "wakes and copies, in the call that waited",
        "copying",
        "neither: returned at once",
        "signal",
    ]
    .into_iter()
    .enumerate()
    {
        group = match index {
            0 => group.add(rectangle("waiting", x, y, 20.0, 12.0).set("rx", 2)),
            1 => group.add(blend(x, y, 20.0, 12.0)),
            2 => group.add(rectangle("copying", x, y, 20.0, 12.0).set("rx", 2)),
            3 => group.add(rectangle("neither", x, y, 20.0, 12.0).set("rx", 2)),
            _ => {
                let (from, to) = ((x + 10.0, y + 14.0), (x + 10.0, y - 1.0));
                group.add(Arrow { class: "signal", from, to }.draw())
            }
        };
        group = group.add(text("muted", "start", x + 26.0, y + 10.0, label));
        x += 26.0 + text_width(label, SMALL) + 18.0;
    }
    y += 40.0;
    let labels = [
        ("1. wait for the data", LEFT, COMES - 3.0),
        ("2. copy it (and write the answer)", COMES + 3.0, RIGHT),
    ];
    for (label, from, to) in labels {
        group = group
            .add(text("head", "middle", f64::midpoint(from, to), y - 5.0, label))
            .add(line("rule", from, y + 1.0, to, y + 1.0));
    }
    // A scale of round numbers.
    let step =
        [20_000, 50_000, 100_000, 200_000, 500_000].into_iter().find(|step| span / step <= 8);
    let step = step.unwrap_or(1_000_000);
    for tick in (step..span).step_by(step as usize) {
        let x = COMES + (RIGHT - COMES) * tick as f64 / span as f64;
        group = group.add(line("rule", x, y + 1.0, x, y + 6.0)).add(text(
            "muted",
            "middle",
            x,
            y + 17.0,
            &duration(tick),
        ));
    }
    group = group.add(text("muted", "end", COMES - 6.0, y + 17.0, "the message comes"));
    (group, y + 30.0)
}

impl<'a> Row<'a> {
    fn new(story: &'a Story) -> Option<Self> {
        let model = story.server.model?;
        let sent = |deed: &&crate::play::Deed| matches!(deed.what, What::Send(_));
        let deeds = &story.play.clients.first()?.deeds;
        let comes = deeds.iter().find(sent)?.from;
        let answered = deeds.iter().find(|deed| matches!(deed.what, What::Receive(_)))?;
        let answered = moment(answered);
        let act = story.play.acts.iter().rposition(|act| act.at < comes)?;
        let until = story.play.act_end(act);
        // Those that had to do with it: they did something between the message and its answer.
        let busy = |thread: &&Thread| {
            thread
                .calls
                .iter()
                .any(|call| (comes..answered).contains(&call.start) || call.waited == Some(comes))
        };
        let threads = story.threads.iter().filter(busy).collect();
        Some(Self { story, model, threads, act: story.play.acts[act].at, comes, answered, until })
    }

    fn height(&self) -> f64 {
        self.threads.len() as f64 * self.lane() - (self.lane() - BAR) + BETWEEN
    }

    /// From one thread's bars to the next one's.
    fn lane(&self) -> f64 {
        let mut signals = self.threads.iter().flat_map(|thread| &thread.signals);
        BAR + if signals.any(|signal| signal.from.is_some()) { FOR_SIGNAL } else { BETWEEN }
    }

    fn place(&self, time: Nanos, span: Nanos) -> f64 {
        if time < self.comes {
            let part = (time - self.act) as f64 / (self.comes - self.act) as f64;
            LEFT + (COMES - LEFT) * part.max(0.0)
        } else {
            let part = (time - self.comes) as f64 / span as f64;
            COMES + (RIGHT - COMES) * part.min(1.0)
        }
    }

    fn draw(&self, top: f64, span: Nanos) -> Group {
        let bottom = top + self.height();
        let mut group = Group::new().add(
            rectangle(
                "panel",
                MARGIN - 6.0,
                top - 6.0,
                WIDTH - 2.0 * MARGIN + 12.0,
                self.height() + ROW - 4.0,
            )
            .set("rx", 6),
        );
        let mut y = top - 2.0;
        for part in wrap(self.model, 13.5, LEFT - MARGIN - 62.0) {
            y += 14.5;
            group = group.add(text("head", "start", MARGIN, y, &part));
        }
        group = group.add(text("muted", "start", MARGIN, y + 14.0, self.story.server.name));
        for (index, thread) in self.threads.iter().enumerate() {
            let y = top + index as f64 * self.lane();
            if self.threads.len() > 1 {
                group = group.add(text("muted", "end", LEFT - 6.0, y + 16.0, &thread.role));
            }
            group = group.add(self.draw_thread(thread, y, span));
        }
        group = group.add(self.draw_signals(top, span));
        group = group.add(tear(CUT + 2.0, CUT + 12.0, top - 3.0, bottom));
        let came = Arrow { class: "message", from: (COMES, top - 6.0), to: (COMES, top) };
        group = group.add(came.draw());
        if self.answered - self.comes < span {
            let x = self.place(self.answered, span);
            group = group.add(spot("spot", x, bottom + 2.0, 3.5));
            let label = format!("answered after {}", duration(self.answered - self.comes));
            let (anchor, x) = if x + text_width(&label, SMALL) + 10.0 > RIGHT {
                ("end", x - 8.0)
            } else {
                ("start", x + 8.0)
            };
            group = group.add(text("muted", anchor, x, bottom + 13.0, &label));
        }
        group.add(text("", "start", LEFT, bottom + 13.0, &self.sentence()))
    }

    fn draw_thread(&self, thread: &Thread, y: f64, span: Nanos) -> Group {
        let (mut bars, mut labels) = (Group::new(), Group::new());
        let end = self.until.min(self.comes + span);
        bars = bars.add(line("life", LEFT, y + BAR / 2.0, RIGHT, y + BAR / 2.0));
        let items = items(&thread.calls, self.act, end);
        // How far to the right something is drawn already.
        let mut taken = LEFT;
        for (index, item) in items.iter().enumerate() {
            match item {
                Item::One(call) if thread.calls[*call].told => {}
                Item::One(call) => {
                    // Until where there is room for a name that does not fit into its bar.
                    let next = items[index + 1..].iter().map(|item| &thread.calls[item.first()]);
                    let next = next
                        .into_iter()
                        .find(|next| !next.told)
                        .map_or(RIGHT, |next| self.place(next.start, span));
                    (bars, labels) = self.draw_call(
                        &thread.calls[*call],
                        (&mut taken, next),
                        y,
                        span,
                        bars,
                        labels,
                    );
                }
                Item::Again { calls, .. } => {
                    let calls = &thread.calls[calls.clone()];
                    let (from, to) = (
                        self.place(calls[0].start, span),
                        self.place(calls[calls.len() - 1].end, span),
                    );
                    taken = to;
                    let count = ((to - from) / 4.0).max(1.0) as usize;
                    for tooth in 0..count {
                        let call = &calls[tooth * calls.len() / count];
                        bars = bars.add(rectangle(
                            class(call.phase),
                            from + tooth as f64 * 4.0,
                            y,
                            2.8,
                            BAR,
                        ));
                    }
                }
            }
        }
        let vain = thread
            .calls
            .iter()
            .filter(|call| call.vain && call.start >= self.act && call.end < self.comes);
        let vain = vain.count();
        if vain > 2 {
            let label = format!("EAGAIN, {vain} times");
            let left = f64::midpoint(LEFT, CUT) - text_width(&label, SMALL) / 2.0;
            labels = labels.add(plate(left, y + 16.0, &label));
        }
        bars.add(labels)
    }

    fn draw_call(
        &self,
        call: &Call,
        (taken, next): (&mut f64, f64),
        y: f64,
        span: Nanos,
        mut bars: Group,
        mut labels: Group,
    ) -> (Group, Group) {
        let shown = |&(_, from, _): &(Phase, Nanos, Nanos)| from < self.comes + span;
        for (phase, from, to) in call.phases().into_iter().filter(shown) {
            let (x, end) = (self.place(from, span), self.place(to, span));
            let width = (end - x).max(1.5);
            bars = if phase == Phase::Copying && call.waited.is_some() {
                bars.add(blend(x, y, width, BAR))
            } else {
                bars.add(rectangle(class(phase), x, y, width, BAR))
            };
        }
        let (x, end) = (self.place(call.start, span), self.place(call.end, span));
        bars = bars.add(rectangle("edge", x, y, (end - x).max(1.5), BAR));
        // In the part that is to scale; or in the wait before it, left of its cut; or beside it.
        let width = text_width(&call.name, SMALL);
        let fits = |part: &&(f64, f64)| part.1 - part.0 > width + 4.0;
        let before = std::mem::replace(taken, end).max(COMES);
        if let Some(part) = [(x, end.min(CUT)), (x.max(COMES), end)].iter().find(fits) {
            labels = labels.add(text(
                "inside",
                "middle",
                f64::midpoint(part.0, part.1),
                y + 16.0,
                &call.name,
            ));
        } else if x >= COMES && call.phase == Phase::Copying && x - before > width + 8.0 {
            labels = labels.add(plate(x - 4.0 - width, y + 16.0, &call.name));
        } else if x >= COMES && call.phase == Phase::Copying && next - end > width + 8.0 {
            labels = labels.add(plate(end + 4.0, y + 16.0, &call.name));
            *taken = end + width + 6.0;
        }
        (bars, labels)
    }

    /// The signals that came between the message and its answer.
    fn draw_signals(&self, top: f64, span: Nanos) -> Group {
        let mut group = Group::new();
        let lane_of = |tid: i32| self.threads.iter().position(|thread| thread.tid == tid);
        for (lane, thread) in self.threads.iter().enumerate() {
            let y = top + lane as f64 * self.lane();
            let here = |at: Nanos| (self.comes..self.answered).contains(&at);
            for signal in thread.signals.iter().filter(|signal| here(signal.at)) {
                let x = self.place(signal.at, span);
                let sender = signal.from.and_then(|(sender, call)| {
                    let sender = &self.story.threads[sender];
                    Some((lane_of(sender.tid)?, sender.calls[call].start))
                });
                let (from, to) = match sender {
                    Some((below, at)) if below > lane => {
                        let from = top + below as f64 * self.lane();
                        ((self.place(at, span) + 3.0, from), (x, y + BAR))
                    }
                    _ => ((x, y + BAR + 4.0), (x, y + BAR / 2.0)),
                };
                group = group.add(Arrow { class: "signal", from, to }.draw());
                // Between two lanes there is room for its name; on a lane, it is before the next bar.
                let next = thread.calls.iter().find(|call| call.start > signal.at);
                let next = next.map_or(RIGHT, |next| self.place(next.start, span));
                let width = text_width(&signal.name, SMALL);
                let (left, label_y) = match sender {
                    Some(_) => (x + 6.0, y + BAR + 13.0),
                    None if x + width + 10.0 < next => (x + 6.0, y + BAR / 2.0 + 4.0),
                    None => (x - 6.0 - width, y + BAR / 2.0 + 4.0),
                };
                group = group.add(plate(left, label_y, &signal.name));
            }
        }
        group
    }

    /// What the trace says, in words.
    fn sentence(&self) -> String {
        let mut waits = Vec::new();
        let mut copies = Vec::new();
        for thread in &self.threads {
            let place = |title: &str| {
                if self.threads.len() > 1 {
                    format!("{title} ({})", thread.role)
                } else {
                    title.to_owned()
                }
            };
            for call in &thread.calls {
                let waiting = (call.phases().iter()).any(|&(phase, from, to)| {
                    phase == Phase::Waiting && from < self.comes && to >= self.comes
                });
                if waiting && call.name != "futex" {
                    waits.push(place(&call.name));
                }
                let came = (self.comes..=self.answered).contains(&call.end);
                if came && matches!(call.copied, Some((Direction::In, 1..))) {
                    let by = if call.told {
                        "the kernel, before the server is told".to_owned()
                    } else {
                        place(&call.name)
                    };
                    copies.push(by);
                }
            }
        }
        let waits = if waits.is_empty() {
            "waits in no call".to_owned()
        } else {
            format!("waits in {}", waits.join(" and "))
        };
        let copies = copies.join(" and ");
        let same =
            if waits.contains(&copies) && !copies.is_empty() { ", the same call" } else { "" };
        format!("{waits}; copied by {copies}{same}")
    }
}
