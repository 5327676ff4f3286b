//! The figure of a server: a panel for each act of the play, a lane for each client and thread.

use std::ops::Range;

use svg::Document;
use svg::node::element::{Group, Title};

use crate::layout::{Axis, CUT, QUIET, Want, text_width};
use crate::play::{What, moment};
use crate::repeat::{Item, again, items};
use crate::story::{Call, Direction, Message, Phase, Story, Thread, Wake};
use crate::strace::Nanos;
use crate::style::{
    Arrow, SMALL, WIDTH, amount, blend, class, duration, line, page, rectangle, spot, tear, text,
    wrap,
};

const MARGIN: f64 = 14.0;
/// Where the lanes begin; their names stand before it.
const LEFT: f64 = 108.0;
const FIELD: f64 = WIDTH - LEFT - MARGIN - 6.0;
const HEAD: f64 = 28.0;
const BAR: f64 = 34.0;
const CLIENT: f64 = 36.0;
const GAP: f64 = 9.0;
/// Above a lane, for the numbers of the steps; below it, for the signals.
const NOTES: f64 = 17.0;
const RULER: f64 = 24.0;
/// The radius of a step's number.
const STEP: f64 = 7.5;
/// Room beside a label.
const AROUND: f64 = 8.0;

/// Draws all acts.
pub fn draw(story: &Story) -> Document {
    let lanes = lanes(story);
    let panels: Vec<Panel> =
        (0..story.play.acts.len()).map(|act| Panel::new(story, &lanes, act)).collect();
    let (header, top) = header(story);
    let height = top + panels.iter().map(|panel| panel.height + GAP).sum::<f64>() + 5.0;
    let mut document =
        page(height, &format!("{} drawn from a trace of its system calls", story.server.name));
    document = document.add(header);
    let mut y = top;
    for panel in &panels {
        document = document.add(panel.draw(y));
        y += panel.height + GAP;
    }
    document
}

/// What a lane shows.
#[derive(Clone, Debug)]
enum Lane {
    Client(usize),
    /// The threads that do the same all the time, as one; mostly it is one.
    Threads(Vec<usize>),
}

/// From the top: A, its thread, those of both, that of B, B. So the arrows are short, and the lanes
/// are in the same order whenever a server is traced.
fn lanes(story: &Story) -> Vec<Lane> {
    let (start, end) = (story.play.acts.first().map_or(0, |act| act.at), story.play.end);
    let idle = |thread: &usize| {
        let calls = &story.threads[*thread].calls;
        calls.len() == 1 && calls[0].start < start && calls[0].end >= end
    };
    let of = |thread: usize, client: &str| story.threads[thread].role.contains(client);
    let (idlers, busy): (Vec<usize>, Vec<usize>) = (0..story.threads.len()).partition(idle);
    let (first, rest): (Vec<usize>, Vec<usize>) =
        busy.into_iter().partition(|&thread| of(thread, " of A"));
    let (last, both): (Vec<usize>, Vec<usize>) =
        rest.into_iter().partition(|&thread| of(thread, " of B"));
    let single =
        |threads: Vec<usize>| threads.into_iter().map(|thread| Lane::Threads(vec![thread]));
    let mut lanes = vec![Lane::Client(0)];
    lanes.extend(single(first).chain(single(both)));
    lanes.extend((!idlers.is_empty()).then_some(Lane::Threads(idlers)));
    lanes.extend(single(last));
    lanes.extend((1..story.play.clients.len()).map(Lane::Client));
    lanes
}

/// The name, the sentence, and what the colours mean, in the words of this trace.
fn header(story: &Story) -> (Group, f64) {
    let mut y = 30.0;
    let mut group = Group::new().add(text("title", "start", MARGIN, y, story.server.name));
    for line in wrap(story.server.idea, 13.0, WIDTH - 2.0 * MARGIN) {
        y += 19.0;
        group = group.add(text("idea", "start", MARGIN, y, &line));
    }
    let legend = Legend::new(story);
    y += 12.0;
    let (entries, bottom) = legend.draw(y);
    (group.add(entries), bottom)
}

/// Whether it was sent in an earlier act than the one in which it was taken.
fn is_early(story: &Story, message: &Message) -> bool {
    let act = |at: Nanos| story.play.acts.partition_point(|act| act.at <= at);
    let call = &story.threads[message.thread].calls[message.call];
    let sent = moment(&story.play.clients[message.client].deeds[message.deed]);
    message.direction == Direction::In && act(sent) < act(sent.max(call.start))
}

struct Legend {
    entries: Vec<(Mark, String)>,
}

enum Mark {
    Bar(&'static str),
    Blend,
    Arrow(&'static str),
    Signal,
    Step,
    Tear,
}

impl Legend {
    fn new(story: &Story) -> Self {
        let calls = || story.threads.iter().flat_map(|thread| &thread.calls);
        let names = |test: &dyn Fn(&Call) -> bool| {
            let mut names: Vec<&str> = Vec::new();
            for call in calls().filter(|call| !call.minor && test(call)) {
                if !names.contains(&call.name.as_str()) {
                    names.push(&call.name);
                }
            }
            names.truncate(4);
            names.join(", ")
        };
        let long = |from: Nanos, to: Nanos| to - from > QUIET;
        let waits = names(&|call| {
            call.phases().iter().any(|&(phase, from, to)| phase == Phase::Waiting && long(from, to))
        });
        let copies = names(&|call| call.copied.is_some() && !call.told);
        let told = names(&|call| call.told);
        let vain = names(&|call| call.vain);
        let both = calls().any(|call| call.waited.is_some() && call.phase == Phase::Copying);
        let mut entries = Vec::new();
        let waits = if waits.is_empty() {
            "waiting: in no call".to_owned()
        } else {
            format!("waiting, blocked in {waits}")
        };
        entries.push((Mark::Bar("waiting"), waits));
        if both {
            entries.push((Mark::Blend, "wakes and copies, in the call that waited".to_owned()));
        }
        if !copies.is_empty() {
            entries.push((Mark::Bar("copying"), format!("copying, in {copies}")));
        }
        if !told.is_empty() {
            entries.push((
                Mark::Bar("told"),
                format!("no call: the server learns that {told} is done"),
            ));
        }
        let neither =
            if vain.is_empty() { String::new() } else { " (EAGAIN: nothing there)".to_owned() };
        entries.push((
            Mark::Bar("neither"),
            format!("neither: returned at once{neither}; a bare line: running"),
        ));
        entries.push((Mark::Arrow("message"), "message".to_owned()));
        if story.messages.iter().any(|message| is_early(story, message)) {
            entries.push((Mark::Arrow("message early"), "one of an earlier act".to_owned()));
        }
        if story.threads.iter().any(|thread| !thread.signals.is_empty()) {
            entries.push((Mark::Signal, "signal".to_owned()));
        }
        if !story.wakes.is_empty() {
            let pair = if calls().any(|call| call.pair.is_some()) {
                " (pair: sockets connected to each other)"
            } else {
                ""
            };
            entries.push((Mark::Arrow("wake"), format!("one thread wakes another{pair}")));
        }
        if !story.server.steps.is_empty() {
            let steps = "a step, as the header of the server's file numbers it";
            entries.push((Mark::Step, steps.to_owned()));
        }
        let cut =
            "not to scale: long stretches are cut, durations stand below; strace slows every call";
        entries.push((Mark::Tear, cut.to_owned()));
        Self { entries }
    }

    fn draw(&self, top: f64) -> (Group, f64) {
        let (mut x, mut y) = (MARGIN, top);
        let mut group = Group::new();
        for (mark, label) in &self.entries {
            let width = 26.0 + text_width(label, SMALL) + 16.0;
            if x + width > WIDTH - MARGIN && x > MARGIN {
                x = MARGIN;
                y += 18.0;
            }
            let middle = y + 6.0;
            group = match mark {
                Mark::Bar(class) => group.add(rectangle(class, x, y, 20.0, 12.0).set("rx", 2)),
                Mark::Blend => group.add(blend(x, y, 20.0, 12.0)),
                Mark::Arrow(class) => {
                    let arrow = Arrow { class, from: (x, middle), to: (x + 20.0, middle) };
                    group.add(arrow.draw())
                }
                Mark::Signal => {
                    let (from, to) = ((x + 10.0, y + 14.0), (x + 10.0, y - 1.0));
                    group.add(Arrow { class: "signal", from, to }.draw())
                }
                Mark::Step => group.add(number_step(x + 10.0, middle, "1")),
                Mark::Tear => group.add(tear(x + 4.0, x + 16.0, y - 1.0, y + 13.0)),
            };
            group = group.add(text("muted", "start", x + 26.0, y + 10.0, label));
            x += width;
        }
        (group, y + 26.0)
    }
}

/// What a client did in one go: its deeds of a kind that follow each other at once.
struct Going {
    deeds: Range<usize>,
    from: Nanos,
    to: Nanos,
    label: String,
}

struct Panel<'a> {
    story: &'a Story,
    lanes: Vec<Lane>,
    act: usize,
    from: Nanos,
    to: Nanos,
    axis: Axis,
    height: f64,
}

impl<'a> Panel<'a> {
    fn new(story: &'a Story, lanes: &[Lane], act: usize) -> Self {
        let (from, to) = (story.play.acts[act].at, story.play.act_end(act));
        // Threads that are not there yet, or not any more, take no room.
        let there = |lane: &&Lane| match lane {
            Lane::Client(_) => true,
            Lane::Threads(threads) => {
                let thread = &story.threads[threads[0]];
                thread.born < to && thread.died.is_none_or(|died| died > from)
            }
        };
        let lanes: Vec<Lane> = lanes.iter().filter(there).cloned().collect();
        let mut panel = Self {
            story,
            lanes,
            act,
            from,
            to,
            axis: Axis::new(vec![from, to], &[], LEFT, FIELD),
            height: 0.0,
        };
        panel.axis = panel.lay_out();
        panel.height = HEAD
            + panel.lanes.iter().map(|lane| panel.lane_height(lane) + GAP).sum::<f64>()
            + RULER;
        panel
    }

    fn lane_height(&self, lane: &Lane) -> f64 {
        match lane {
            Lane::Client(_) => CLIENT,
            Lane::Threads(threads) => {
                self.above() + BAR + if self.has_signals(threads) { NOTES } else { 0.0 }
            }
        }
    }

    fn above(&self) -> f64 {
        if self.story.server.steps.is_empty() { 0.0 } else { NOTES }
    }

    fn has_signals(&self, threads: &[usize]) -> bool {
        threads.iter().any(|&thread| !self.story.threads[thread].signals.is_empty())
    }

    /// The part of a call that is in this act.
    fn visible(&self, call: &Call) -> (Nanos, Nanos) {
        (call.start.max(self.from), call.end.min(self.to))
    }

    /// What there is to show of a thread. A call belongs to the act in which it returns; it is in
    /// the one before too if it waits.
    fn items(&self, thread: usize) -> Vec<Item> {
        let calls = &self.story.threads[thread].calls;
        let mut items = items(calls, self.from, self.to);
        let late = |call: &Call| call.end > self.to && !call.waits_at(self.to);
        items.retain(|item| !matches!(item, Item::One(call) if late(&calls[*call])));
        items
    }

    fn goings(&self, client: usize) -> Vec<Going> {
        const AT_ONCE: Nanos = 5_000_000;
        let deeds = &self.story.play.clients[client].deeds;
        let mut goings: Vec<(Going, What)> = Vec::new();
        for (index, deed) in deeds.iter().enumerate() {
            let at = moment(deed);
            if !(self.from..self.to).contains(&at) {
                continue;
            }
            if let Some((last, what)) = goings.last_mut() {
                let both = match (*what, deed.what) {
                    (What::Send(a), What::Send(b)) => Some(What::Send(a + b)),
                    (What::Receive(a), What::Receive(b)) => Some(What::Receive(a + b)),
                    _ => None,
                };
                if let Some(both) = both.filter(|_| at - last.to < AT_ONCE) {
                    *what = both;
                    last.to = at;
                    last.deeds.end = index + 1;
                    continue;
                }
            }
            let going = Going { deeds: index..index + 1, from: at, to: at, label: String::new() };
            goings.push((going, deed.what));
        }
        let label = |what: What| match what {
            What::Connect => "connects".to_owned(),
            What::Send(bytes) => format!("sends {}", amount(bytes)),
            What::Receive(bytes) => format!("gets {}", amount(bytes)),
            What::Leave => "leaves".to_owned(),
        };
        goings.into_iter().map(|(going, what)| Going { label: label(what), ..going }).collect()
    }

    /// What there is to place, and how much room it wants.
    fn lay_out(&self) -> Axis {
        let mut times = vec![self.from, self.to];
        let mut wants = Vec::new();
        for lane in &self.lanes {
            match lane {
                Lane::Client(client) => {
                    let goings = self.goings(*client);
                    for (index, going) in goings.iter().enumerate() {
                        times.extend([going.from, going.to]);
                        let next = goings.get(index + 1).map_or(self.to, |next| next.from);
                        let cut = if next - going.from >= QUIET { CUT + 6.0 } else { 0.0 };
                        let width = text_width(&going.label, SMALL) + AROUND + cut;
                        wants.push(Want { from: going.from, to: next, width, rank: 0 });
                    }
                }
                Lane::Threads(threads) => {
                    self.want_thread(threads[0], &mut times, &mut wants);
                }
            }
        }
        times.retain(|time| (self.from..=self.to).contains(time));
        Axis::new(times, &wants, LEFT, FIELD)
    }

    fn want_thread(&self, thread: usize, times: &mut Vec<Nanos>, wants: &mut Vec<Want>) {
        let Thread { calls, signals, .. } = &self.story.threads[thread];
        let items = self.items(thread);
        for (index, item) in items.iter().enumerate() {
            let (from, to, width, rank) = match item {
                Item::One(call) => {
                    let call = &calls[*call];
                    let (from, mut to) = self.visible(call);
                    if call.told {
                        // It has no length: it may take the time until the next call.
                        to = items[index + 1..]
                            .iter()
                            .map(|item| calls[item.first()].start)
                            .next()
                            .unwrap_or(self.to);
                    }
                    times.extend(call.waited);
                    let rank = match (call.minor, call.vain, call.main_phase()) {
                        (true, ..) => 9,
                        (_, true, _) => 4,
                        _ if call.answer.starts_with('E') => 5,
                        _ if call.step.is_some() => 1,
                        (.., Phase::Neither) => 3,
                        (.., Phase::Waiting) if to - from < QUIET => 2,
                        _ if call.told => 2,
                        _ => 1,
                    };
                    let extra = if call.told {
                        5.0
                    } else if to - from >= QUIET {
                        16.0
                    } else {
                        0.0
                    };
                    let width = label_width(call) + AROUND + extra;
                    let least = if call.step.is_some() { 2.0 * STEP + 2.0 } else { 4.0 };
                    wants.push(Want { from, to, width: least, rank: 0 });
                    (from, to, width, rank)
                }
                Item::Again { calls: range, times } => {
                    let (from, to) = (
                        calls[range.start].start.max(self.from),
                        calls[range.end - 1].end.min(self.to),
                    );
                    (from, to, text_width(&again(*times), SMALL) + AROUND + 16.0, 2)
                }
            };
            times.extend([from, to]);
            if rank < 9 {
                wants.push(Want { from, to, width, rank });
            }
        }
        for (index, signal) in signals.iter().enumerate() {
            if (self.from..self.to).contains(&signal.at) {
                times.push(signal.at);
                let next = signals.get(index + 1).map_or(self.to, |next| next.at.min(self.to));
                let width = text_width(&signal.name, SMALL) + 12.0;
                wants.push(Want { from: signal.at, to: next, width, rank: 3 });
            }
        }
    }

    fn draw(&self, top: f64) -> Group {
        let mut tops = Vec::new();
        let mut y = top + HEAD;
        for lane in &self.lanes {
            tops.push(y);
            y += self.lane_height(lane) + GAP;
        }
        let bottom = y - GAP;
        let title = format!("{}. {}", self.act + 1, self.story.play.acts[self.act].title);
        let mut group = Group::new()
            .add(
                rectangle("panel", MARGIN - 6.0, top, WIDTH - 2.0 * MARGIN + 12.0, self.height)
                    .set("rx", 6),
            )
            .add(text("head", "start", MARGIN, top + 18.0, &title));
        for (lane, &y) in self.lanes.iter().zip(&tops) {
            group = group.add(self.draw_life(lane, y));
        }
        let arrows = self.arrows(&tops);
        let (mut bars, mut labels) = (Group::new(), Group::new());
        for (lane, &y) in self.lanes.iter().zip(&tops) {
            (bars, labels) = match lane {
                Lane::Client(client) => self.draw_client(*client, y, bars, labels),
                Lane::Threads(threads) => self.draw_thread(threads[0], y, &arrows, bars, labels),
            };
        }
        group = group.add(bars);
        for (from, to) in self.axis.cuts() {
            group = group.add(tear(from, to, top + HEAD - 2.0, bottom));
        }
        for arrow in &arrows {
            group = group.add(arrow.draw());
        }
        group = group.add(labels);
        group.add(self.draw_ruler(bottom + 5.0))
    }

    /// All that goes from lane to lane, or into one.
    fn arrows(&self, tops: &[f64]) -> Vec<Arrow> {
        let messages = self.story.messages.iter().filter_map(|message| self.message(message, tops));
        let mut arrows: Vec<Arrow> = messages.collect();
        arrows.extend(self.wakes(tops));
        arrows.extend(self.signals(tops));
        arrows
    }

    /// The name of a lane, and the line of the time in which there is somebody in it.
    fn draw_life(&self, lane: &Lane, top: f64) -> Group {
        let (name, y, class, from, to) = match lane {
            Lane::Client(client) => {
                let client = &self.story.play.clients[*client];
                let came = client.deeds.first().map_or(self.from, |deed| deed.from);
                let left = client.deeds.iter().find(|deed| deed.what == What::Leave);
                let left = left.map_or(self.to, |deed| deed.from);
                let name = format!("client {}", client.name);
                (vec![name], self.client_line(lane, top), "client", came, left)
            }
            Lane::Threads(threads) => {
                let first = &self.story.threads[threads[0]];
                let name = if threads.len() > 1 {
                    vec![first.role.clone(), format!("and {} more", threads.len() - 1)]
                } else {
                    wrap(&first.role, SMALL, LEFT - MARGIN - 6.0)
                };
                let died = first.died.unwrap_or(self.to);
                (name, top + self.above() + BAR / 2.0, "life", first.born, died)
            }
        };
        let mut group = Group::new();
        let shift = (name.len() as f64 - 1.0) * 6.5;
        for (index, part) in name.iter().enumerate() {
            let y = y + 4.0 - shift + 13.0 * index as f64;
            group = group.add(text("", "start", MARGIN, y, part));
        }
        let (from, to) = (from.max(self.from), to.min(self.to));
        if from < to {
            group = group.add(line(class, self.axis.place(from), y, self.axis.place(to), y));
        }
        group
    }

    /// The line of a client: the labels stand on the side where no arrows come.
    fn client_line(&self, lane: &Lane, top: f64) -> f64 {
        if self.is_first(lane) { top + CLIENT - 8.0 } else { top + 8.0 }
    }

    fn is_first(&self, lane: &Lane) -> bool {
        matches!((lane, &self.lanes[0]), (Lane::Client(a), Lane::Client(b)) if a == b)
    }

    fn draw_client(
        &self,
        client: usize,
        top: f64,
        mut bars: Group,
        mut labels: Group,
    ) -> (Group, Group) {
        let lane = Lane::Client(client);
        let y = self.client_line(&lane, top);
        let label_y = if self.is_first(&lane) { y - 9.0 } else { y + 17.0 };
        let goings = self.goings(client);
        let mut taken = LEFT - 3.0;
        for (index, going) in goings.iter().enumerate() {
            let (x, end) = (self.axis.place(going.from), self.axis.place(going.to));
            bars = if going.deeds.len() > 1 {
                bars.add(rectangle("spot", x - 3.5, y - 3.5, end - x + 7.0, 7.0).set("rx", 3.5))
            } else {
                bars.add(spot("spot", x, y, 3.5))
            };
            let next =
                goings.get(index + 1).map_or(LEFT + FIELD, |next| self.axis.place(next.from));
            // It begins at its spot; or before, to end where a cut is.
            let free = self.axis.free(x, next).first().map_or(next, |part| part.end);
            let width = text_width(&going.label, SMALL);
            let left = (free - width - 2.0).min(x - 3.0);
            if left >= taken {
                labels = labels.add(text("halo", "start", left, label_y, &going.label));
                taken = left + width + 4.0;
            }
        }
        (bars, labels)
    }

    fn draw_thread(
        &self,
        thread: usize,
        top: f64,
        arrows: &[Arrow],
        mut bars: Group,
        mut labels: Group,
    ) -> (Group, Group) {
        let Thread { calls, signals, .. } = &self.story.threads[thread];
        let y = top + self.above();
        let items = self.items(thread);
        for (index, item) in items.iter().enumerate() {
            (bars, labels) = match item {
                Item::One(call) => {
                    let next =
                        items.get(index + 1).map_or(self.to, |item| calls[item.first()].start);
                    self.draw_call(&calls[*call], next, y, arrows, bars, labels)
                }
                Item::Again { calls: range, times } => {
                    self.draw_again(&calls[range.clone()], *times, y, bars, labels)
                }
            };
        }
        // The names of the signals, on the side of their arrows that is free.
        let mut taken = LEFT;
        let here = signals.iter().filter(|signal| (self.from..self.to).contains(&signal.at));
        let places: Vec<_> =
            here.map(|signal| (self.axis.place(signal.at), signal.name.as_str())).collect();
        for (index, &(x, name)) in places.iter().enumerate() {
            let (width, bottom) = (text_width(name, SMALL), y + BAR + NOTES - 2.0);
            let next = places.get(index + 1).map_or(LEFT + FIELD, |&(next, _)| next - 4.0);
            let free = |&left: &f64| {
                let corners = ((left - 1.0, bottom - 11.0), (left + width + 1.0, bottom + 2.0));
                let crossed = arrows.iter().any(|arrow| arrow.crosses(corners.0, corners.1));
                let right = left + width;
                let whole = self.axis.free(left, right) == [left..right];
                left >= taken && right <= next && whole && !crossed
            };
            if let Some(left) = [x + 6.0, x - 6.0 - width].into_iter().find(free) {
                labels = labels.add(text("halo", "start", left, bottom - 1.0, name));
                taken = left + width + 4.0;
            }
            taken = taken.max(x + 4.0);
        }
        (bars, labels)
    }

    fn draw_call(
        &self,
        call: &Call,
        next: Nanos,
        y: f64,
        arrows: &[Arrow],
        bars: Group,
        mut labels: Group,
    ) -> (Group, Group) {
        let (from, to) = self.visible(call);
        let (x, mut end) = (self.axis.place(from), self.axis.place(to));
        if call.told {
            end = (x + label_width(call) + AROUND + 2.0).min(self.axis.place(next) - 2.0);
        }
        end = end.max(x + 2.0);
        let turns = call.waited.map(|waited| self.axis.place(waited.clamp(from, to)));
        let mut bar = Group::new().add(Title::new(describe(call)));
        if call.told {
            bar =
                bar.add(rectangle("told", x + 1.0, y + 1.0, end - x - 2.0, BAR - 2.0).set("rx", 3));
        } else {
            let rest = turns.unwrap_or(x);
            if turns.is_some() {
                bar = bar.add(rectangle("waiting", x, y, rest - x, BAR));
            }
            if end > rest {
                bar = if turns.is_some() && call.phase == Phase::Copying {
                    bar.add(blend(rest, y, end - rest, BAR))
                } else {
                    bar.add(rectangle(class(call.phase), rest, y, end - rest, BAR))
                };
            }
            bar = bar.add(rectangle("edge", x, y, end - x, BAR));
        }
        // On a bar of one colour, what crosses a label is kept off it.
        let style = |left: f64, right: f64| match turns {
            _ if call.told => String::new(),
            Some(turns) if right <= turns => "inside on waiting-label".to_owned(),
            Some(turns) if left < turns || call.phase == Phase::Copying => "inside".to_owned(),
            _ => format!("inside on {}-label", class(call.phase)),
        };
        // What came of it is not known before it is over, and stands there.
        let answer = Some(&call.answer).filter(|answer| !answer.is_empty() && call.end <= self.to);
        let free = self.axis.free(x, end);
        let fits = |part: &Range<f64>, label: &str| {
            part.end - part.start >= text_width(label, SMALL) + 6.0
        };
        let last = answer.and_then(|answer| {
            free.iter().rposition(|part| fits(part, &call.title) && fits(part, answer))
        });
        if let (Some(last), Some(answer)) = (last, answer) {
            let half = label_width(call) / 2.0;
            let at = place_label(&free[last], half, (y + 4.0, y + 31.0), arrows);
            let style = style(at - half, at + half);
            labels = labels.add(text(&style, "middle", at, y + 14.0, &call.title)).add(text(
                &style,
                "middle",
                at,
                y + 28.0,
                answer,
            ));
        }
        // And its name at the beginning too, where a cut is between.
        let first = free
            .iter()
            .position(|part| fits(part, &call.title))
            .filter(|&first| Some(first) != last);
        if let Some(first) = first {
            let half = text_width(&call.title, SMALL) / 2.0;
            let at = place_label(&free[first], half, (y + 10.0, y + 24.0), arrows);
            let style = style(at - half, at + half);
            labels = labels.add(text(&style, "middle", at, y + BAR / 2.0 + 4.0, &call.title));
        }
        let at_end = call.is_step_at_end();
        let inside = if at_end { call.end < self.to } else { call.start >= self.from };
        if let Some(step) = call.step.filter(|_| inside) {
            let at = place_step(x..end, at_end, y, arrows);
            labels = labels.add(number_step(at, y - 9.0, step.number));
        }
        (bars.add(bar), labels)
    }

    /// The calls that repeat those before: without names, and how often.
    fn draw_again(
        &self,
        calls: &[Call],
        times: usize,
        y: f64,
        mut bars: Group,
        mut labels: Group,
    ) -> (Group, Group) {
        const COMB: f64 = 14.0;
        let (Some(first), Some(last)) = (calls.first(), calls.last()) else {
            return (bars, labels);
        };
        let (x, end) =
            (self.axis.place(first.start.max(self.from)), self.axis.place(last.end.min(self.to)));
        // As many teeth as can be told apart; each is one of the calls, in its colour.
        let count = (((end - x) / 4.0) as usize).clamp(1, calls.len());
        let step = (end - x) / count as f64;
        for tooth in 0..count {
            let call = &calls[tooth * calls.len() / count];
            let at = x + step * tooth as f64;
            bars = bars.add(rectangle(class(call.phase), at, y + BAR - COMB, step * 0.7, COMB));
        }
        let label = again(times);
        let free = self.axis.free(x, end);
        let width = text_width(&label, SMALL);
        if let Some(part) = free.iter().find(|part| part.end - part.start >= width) {
            let at = f64::midpoint(part.start, part.end);
            labels = labels.add(text("halo", "middle", at, y + 14.0, &label));
        }
        (bars, labels)
    }

    fn lane_of_thread(&self, thread: usize) -> Option<usize> {
        self.lanes
            .iter()
            .position(|lane| matches!(lane, Lane::Threads(threads) if threads.contains(&thread)))
    }

    fn message(&self, message: &Message, tops: &[f64]) -> Option<Arrow> {
        let &Message { client, deed, thread, call, direction } = message;
        let thread_lane = self.lane_of_thread(thread)?;
        let client_lane = self
            .lanes
            .iter()
            .position(|lane| matches!(lane, Lane::Client(other) if *other == client))?;
        let deed = self.story.play.clients[client].deeds[deed];
        let call_index = call;
        let call = &self.story.threads[thread].calls[call];
        // Of calls that are drawn as a repetition only the first ones have a place.
        let shown = self
            .items(thread)
            .iter()
            .any(|item| matches!(item, Item::One(one) if *one == call_index));
        let deed_at = moment(&deed);
        let call_at = deed_at.clamp(call.start, call.end);
        if !shown || !(self.from..self.to).contains(&call_at) || deed_at >= self.to {
            return None;
        }
        let down = client_lane < thread_lane;
        let bar_top = tops[thread_lane] + self.above();
        let bar_y = if down { bar_top } else { bar_top + BAR };
        let gap = if down { 4.0 } else { -4.0 };
        let client_y = self.client_line(&self.lanes[client_lane], tops[client_lane]) + gap;
        let at_client = (self.axis.place(deed_at.max(self.from)), client_y);
        let at_call = |inside: f64| (self.axis.place(call_at) + inside, bar_y);
        match direction {
            Direction::In => {
                // Into the bar and not to its edge, where the next one may begin.
                let (from, to) = self.visible(call);
                let width = self.axis.place(to) - self.axis.place(from);
                let inside = if call_at == call.start { (width / 2.0).min(6.0) } else { 0.0 };
                let class = if deed_at < self.from { "message early" } else { "message" };
                Some(Arrow { class, from: at_client, to: at_call(inside) })
            }
            Direction::Out if deed_at < self.from => None,
            Direction::Out => {
                let inside = if call_at == call.end { -3.0 } else { 0.0 };
                Some(Arrow { class: "message", from: at_call(inside), to: at_client })
            }
        }
    }

    /// From one lane's bars to another's, at these times.
    fn between(
        &self,
        tops: &[f64],
        (from, from_x): (usize, f64),
        (to, to_x): (usize, f64),
        class: &'static str,
    ) -> Option<Arrow> {
        let (from, to) = (self.lane_of_thread(from)?, self.lane_of_thread(to)?);
        let (from_y, to_y) = (tops[from] + self.above(), tops[to] + self.above());
        let (from_y, to_y) = if from < to { (from_y + BAR, to_y) } else { (from_y, to_y + BAR) };
        Some(Arrow { class, from: (from_x, from_y), to: (to_x, to_y) })
    }

    fn wakes(&self, tops: &[f64]) -> Vec<Arrow> {
        let call = |(thread, index): (usize, usize)| &self.story.threads[thread].calls[index];
        let inside = |time: Nanos| (self.from..self.to).contains(&time);
        let shown = self.story.wakes.iter().filter(|wake| {
            let (by, woken) = (call(wake.by), call(wake.woken));
            // What had been there before it was asked for has woken nobody.
            let slept = woken.phase == Phase::Waiting;
            slept && inside(by.start) && inside(by.end) && inside(woken.end)
        });
        let arrow = |wake: &Wake| {
            let woken = self.axis.place(call(wake.woken).end);
            let woke = self.axis.place(call(wake.by).end).min(woken);
            self.between(tops, (wake.by.0, woke), (wake.woken.0, woken), "wake")
        };
        shown.filter_map(arrow).collect()
    }

    /// From one thread to another, or from the kernel.
    fn signals(&self, tops: &[f64]) -> Vec<Arrow> {
        let inside = |time: Nanos| (self.from..self.to).contains(&time);
        let mut arrows = Vec::new();
        for (taker, thread) in self.story.threads.iter().enumerate() {
            let Some(lane) = self.lane_of_thread(taker) else { continue };
            for signal in thread.signals.iter().filter(|signal| inside(signal.at)) {
                let x = self.axis.place(signal.at);
                let Some((sender, call)) = signal.from else {
                    let y = tops[lane] + self.above() + BAR;
                    arrows.push(Arrow { class: "signal", from: (x, y + NOTES - 1.0), to: (x, y) });
                    continue;
                };
                let at = self.story.threads[sender].calls[call].start;
                let from = (sender, self.axis.place(at) + 3.0);
                let arrow = self.between(tops, from, (taker, x), "signal");
                arrows.extend(arrow.filter(|_| inside(at)));
            }
        }
        arrows
    }

    /// How long the stretches were: those that are cut, and what is between them.
    fn draw_ruler(&self, y: f64) -> Group {
        let mut group = Group::new();
        let mut stretches: Vec<(Nanos, f64, f64, bool)> = Vec::new();
        for (length, from, to) in self.axis.stretches() {
            let quiet = length >= QUIET;
            match stretches.last_mut() {
                Some((total, _, end, false)) if !quiet => {
                    *total += length;
                    *end = to;
                }
                _ => stretches.push((length, from, to, quiet)),
            }
        }
        for (length, from, to, _) in stretches {
            let label = duration(length);
            let width = text_width(&label, SMALL);
            let middle = f64::midpoint(from, to);
            group = group.add(line("rule", from, y, from, y + 6.0)).add(line(
                "rule",
                to,
                y,
                to,
                y + 6.0,
            ));
            group = group.add(line("rule", from, y + 3.0, to, y + 3.0));
            if to - from >= width + 2.0 {
                group = group.add(text("muted", "middle", middle, y + 15.0, &label));
            }
        }
        group
    }
}

/// Where in `part` the middle of a label is put that is twice `half` wide and stands from line to
/// line: in the middle, or as near to it as no arrow goes through the label.
fn place_label(part: &Range<f64>, half: f64, (top, bottom): (f64, f64), arrows: &[Arrow]) -> f64 {
    let middle = f64::midpoint(part.start, part.end);
    let room = (part.end - part.start) / 2.0 - half - 2.0;
    let aside = (0..=(room / 3.0) as usize).map(|step| step as f64 * 3.0);
    let mut places = aside.flat_map(|aside| [middle + aside, middle - aside]);
    let free = |at: &f64| {
        let (left, right) = (at - half - 3.0, at + half + 3.0);
        !arrows.iter().any(|arrow| arrow.crosses((left, top), (right, bottom)))
    };
    places.find(free).unwrap_or(middle)
}

fn number_step(x: f64, y: f64, number: &str) -> Group {
    let number = text("step-number", "middle", x, y + 3.8, number);
    Group::new().add(spot("step", x, y, STEP)).add(number)
}

/// Where the number of a step is put above its `bar`, the top of which is at `y`: at its beginning
/// or its end, or further inside where an arrow goes through it there.
fn place_step(bar: Range<f64>, at_end: bool, y: f64, arrows: &[Arrow]) -> f64 {
    let (low, high) = (bar.start + STEP + 0.5, bar.end - STEP - 0.5);
    let inside = (0..).map(|step| f64::from(step) * 3.0).take_while(|aside| low + aside <= high);
    let mut places = inside.map(|aside| if at_end { high - aside } else { low + aside });
    let free = |at: &f64| {
        let (corner, other) = ((at - STEP, y - 9.0 - STEP), (at + STEP, y - 9.0 + STEP));
        !arrows.iter().any(|arrow| arrow.crosses(corner, other))
    };
    places.find(free).unwrap_or(if at_end { high } else { low })
}

fn label_width(call: &Call) -> f64 {
    text_width(&call.title, SMALL).max(text_width(&call.answer, SMALL))
}

/// What one sees who points at a bar.
fn describe(call: &Call) -> String {
    if call.told {
        return format!("No call; the server's log says: {} {}", call.title, call.answer);
    }
    let args: String = call.args.chars().take(160).collect();
    format!("{}({args}) = {}, {}", call.name, call.result, duration(call.end - call.start))
}
