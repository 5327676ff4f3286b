//! The geometry of a panel: which lanes it has, what they show, and where.

use std::ops::Range;

use super::lanes::Lane;
use super::steps;
use crate::call::{Call, Phase, Thread};
use crate::layout::{Axis, CUT, MinWidth, QUIET, text_width};
use crate::repeat::{self, Item, items};
use crate::session::ActionKind;
use crate::strace::Nanos;
use crate::style::{SMALL, WIDTH, amount};
use crate::timeline::Timeline;

pub const MARGIN: f64 = 14.0;
/// Where the time axis begins. The names of the lanes stand to the left of it.
pub const LEFT: f64 = 108.0;
/// The width of the time axis.
pub const FIELD: f64 = WIDTH - LEFT - MARGIN - 6.0;
/// Height of the title.
pub const HEAD: f64 = 28.0;
/// Height of a bar.
pub const BAR: f64 = 34.0;
/// Height of a client's lane.
pub const CLIENT: f64 = 36.0;
/// Space between lanes and between panels.
pub const GAP: f64 = 9.0;
/// Space above a lane for the numbers of the steps, and below it for the signals.
pub const NOTES: f64 = 17.0;
const RULER: f64 = 24.0;
/// Space around a label.
pub const PADDING: f64 = 8.0;

/// One part of the session.
pub struct Panel<'a> {
    pub timeline: &'a Timeline,
    pub lanes: Vec<Lane>,
    /// The index of the part.
    pub part: usize,
    pub from: Nanos,
    pub to: Nanos,
    pub axis: Axis,
    pub height: f64,
}

/// Actions of a client that follow each other at once, and share a label.
pub struct ActionGroup {
    pub actions: Range<usize>,
    pub from: Nanos,
    pub to: Nanos,
    pub label: String,
}

impl<'a> Panel<'a> {
    pub fn new(timeline: &'a Timeline, lanes: &[Lane], part: usize) -> Self {
        let from = timeline.session.parts[part].start;
        let to = timeline.session.part_end(part);
        // Threads that do not exist in this part get no lane.
        let exists = |lane: &&Lane| match lane {
            Lane::Client(_) => true,
            Lane::Threads(threads) => {
                let thread = &timeline.threads[threads[0]];
                thread.born < to && thread.died.is_none_or(|died| died > from)
            }
        };
        let mut panel = Self {
            timeline,
            lanes: lanes.iter().filter(exists).cloned().collect(),
            part,
            from,
            to,
            axis: Axis::new(vec![from, to], &[], LEFT, FIELD),
            height: 0.0,
        };
        panel.axis = panel.lay_out();
        let lanes_height: f64 = panel.lanes.iter().map(|lane| panel.lane_height(lane) + GAP).sum();
        panel.height = HEAD + lanes_height + RULER;
        panel
    }

    pub fn lane_height(&self, lane: &Lane) -> f64 {
        match lane {
            Lane::Client(_) => CLIENT,
            Lane::Threads(threads) => {
                let has_signals =
                    threads.iter().any(|&thread| !self.timeline.threads[thread].signals.is_empty());
                self.above() + BAR + if has_signals { NOTES } else { 0.0 }
            }
        }
    }

    /// The space above the bars of a lane.
    pub fn above(&self) -> f64 {
        if self.timeline.server.notes.steps.is_empty() { 0.0 } else { NOTES }
    }

    /// The y coordinate of a client's line. Its labels stand on the other side than its arrows.
    pub fn client_line(&self, lane: &Lane, top: f64) -> f64 {
        if self.is_first(lane) { top + CLIENT - 8.0 } else { top + 8.0 }
    }

    pub fn is_first(&self, lane: &Lane) -> bool {
        matches!((lane, &self.lanes[0]), (Lane::Client(a), Lane::Client(b)) if a == b)
    }

    pub fn lane_of_thread(&self, thread: usize) -> Option<usize> {
        let is_of = |lane: &Lane| matches!(lane, Lane::Threads(ids) if ids.contains(&thread));
        self.lanes.iter().position(is_of)
    }

    pub fn lane_of_client(&self, client: usize) -> Option<usize> {
        self.lanes.iter().position(|lane| matches!(lane, Lane::Client(other) if *other == client))
    }

    /// Whether a time is within the panel.
    pub fn contains(&self, time: Nanos) -> bool {
        (self.from..self.to).contains(&time)
    }

    /// The part of a call that is within the panel.
    pub fn visible(&self, call: &Call) -> (Nanos, Nanos) {
        (call.start.max(self.from), call.end.min(self.to))
    }

    /// What is shown of a thread. A call is shown in the part in which it returns, and also in
    /// earlier ones if it waits there.
    pub fn items(&self, thread: usize) -> Vec<Item> {
        let calls = &self.timeline.threads[thread].calls;
        let mut items = items(calls, self.from, self.to);
        let is_later = |call: &Call| call.end > self.to && !call.waits_at(self.to);
        items.retain(|item| !matches!(item, Item::Call(call) if is_later(&calls[*call])));
        items
    }

    /// Groups the actions of a client that follow each other at once.
    pub fn action_groups(&self, client: usize) -> Vec<ActionGroup> {
        const AT_ONCE: Nanos = 5_000_000;
        let actions = &self.timeline.session.clients[client].actions;
        let mut groups: Vec<(ActionGroup, ActionKind)> = Vec::new();
        for (index, action) in actions.iter().enumerate() {
            let at = action.at();
            if !self.contains(at) {
                continue;
            }
            if let Some((last, kind)) = groups.last_mut() {
                let sum = match (*kind, action.kind) {
                    (ActionKind::Send(a), ActionKind::Send(b)) => Some(ActionKind::Send(a + b)),
                    (ActionKind::Receive(a), ActionKind::Receive(b)) => {
                        Some(ActionKind::Receive(a + b))
                    }
                    _ => None,
                };
                if let Some(sum) = sum.filter(|_| at - last.to < AT_ONCE) {
                    *kind = sum;
                    last.to = at;
                    last.actions.end = index + 1;
                    continue;
                }
            }
            let label = String::new();
            let group = ActionGroup { actions: index..index + 1, from: at, to: at, label };
            groups.push((group, action.kind));
        }
        let with_label = |(group, kind)| ActionGroup { label: describe_action(kind), ..group };
        groups.into_iter().map(with_label).collect()
    }

    /// Collects the points in time of the panel, and the widths that their labels need.
    fn lay_out(&self) -> Axis {
        let mut times = vec![self.from, self.to];
        let mut widths = Vec::new();
        for lane in &self.lanes {
            match lane {
                Lane::Client(client) => self.lay_out_client(*client, &mut times, &mut widths),
                Lane::Threads(threads) => self.lay_out_thread(threads[0], &mut times, &mut widths),
            }
        }
        times.retain(|time| (self.from..=self.to).contains(time));
        Axis::new(times, &widths, LEFT, FIELD)
    }

    fn lay_out_client(&self, client: usize, times: &mut Vec<Nanos>, widths: &mut Vec<MinWidth>) {
        let groups = self.action_groups(client);
        for (index, group) in groups.iter().enumerate() {
            times.extend([group.from, group.to]);
            let to = groups.get(index + 1).map_or(self.to, |next| next.from);
            let cut = if to - group.from >= QUIET { CUT + 6.0 } else { 0.0 };
            let width = text_width(&group.label, SMALL) + PADDING + cut;
            widths.push(MinWidth { from: group.from, to, width, rank: 0 });
        }
    }

    fn lay_out_thread(&self, thread: usize, times: &mut Vec<Nanos>, widths: &mut Vec<MinWidth>) {
        let Thread { calls, signals, .. } = &self.timeline.threads[thread];
        let items = self.items(thread);
        for (index, item) in items.iter().enumerate() {
            let needed = match item {
                Item::Call(call) => {
                    let call = &calls[*call];
                    let (from, mut to) = self.visible(call);
                    if call.from_log {
                        // A log line has no duration. It may use the time until the next call.
                        let next = items.get(index + 1);
                        to = next.map_or(self.to, |next| calls[next.first()].start);
                    }
                    times.extend(call.blocked_until);
                    let smallest =
                        if call.step.is_some() { 2.0 * steps::RADIUS + 2.0 } else { 4.0 };
                    widths.push(MinWidth { from, to, width: smallest, rank: 0 });
                    let width = label_width(call) + PADDING + space_beside_label(call, from, to);
                    MinWidth { from, to, width, rank: rank(call, to - from) }
                }
                Item::Repeated { calls: range, times } => {
                    let from = calls[range.start].start.max(self.from);
                    let to = calls[range.end - 1].end.min(self.to);
                    let width = text_width(&repeat::label(*times), SMALL) + PADDING + 16.0;
                    MinWidth { from, to, width, rank: 2 }
                }
            };
            times.extend([needed.from, needed.to]);
            if needed.rank < MINOR_RANK {
                widths.push(needed);
            }
        }
        for (index, signal) in signals.iter().enumerate() {
            if self.contains(signal.at) {
                times.push(signal.at);
                let to = signals.get(index + 1).map_or(self.to, |next| next.at.min(self.to));
                let width = text_width(&signal.name, SMALL) + 12.0;
                widths.push(MinWidth { from: signal.at, to, width, rank: 3 });
            }
        }
    }
}

/// The rank of labels that are left out in any case, unless there happens to be room.
const MINOR_RANK: u8 = 9;

/// How soon the label of a call is left out if the room is not enough.
fn rank(call: &Call, duration: Nanos) -> u8 {
    if call.minor {
        MINOR_RANK
    } else if call.would_block {
        4
    } else if call.outcome.starts_with('E') {
        5
    } else if call.step.is_some() {
        1
    } else {
        match call.main_phase() {
            Phase::Neither => 3,
            Phase::Waiting if duration < QUIET => 2,
            _ if call.from_log => 2,
            _ => 1,
        }
    }
}

fn space_beside_label(call: &Call, from: Nanos, to: Nanos) -> f64 {
    if call.from_log {
        5.0
    } else if to - from >= QUIET {
        16.0
    } else {
        0.0
    }
}

pub fn label_width(call: &Call) -> f64 {
    text_width(&call.label, SMALL).max(text_width(&call.outcome, SMALL))
}

fn describe_action(kind: ActionKind) -> String {
    match kind {
        ActionKind::Connect => "connects".to_owned(),
        ActionKind::Send(bytes) => format!("sends {}", amount(bytes)),
        ActionKind::Receive(bytes) => format!("receives {}", amount(bytes)),
        ActionKind::Disconnect => "disconnects".to_owned(),
    }
}
