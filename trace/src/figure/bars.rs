//! The bars and labels of a panel's lanes.

use std::ops::Range;

use svg::Node;
use svg::node::element::{Group, Title};

use super::lanes::Lane;
use super::panel::{BAR, FIELD, LEFT, NOTES, PADDING, Panel, label_width};
use super::steps::{place_step, step_number};
use crate::call::{Call, Phase, Thread};
use crate::layout::text_width;
use crate::repeat::{self, Item};
use crate::strace::Nanos;
use crate::style::{Arrow, SMALL, blend, class, duration, rectangle, spot, text};

/// The layers of a panel: the arrows are drawn between them.
#[derive(Default)]
pub struct Layers {
    pub bars: Group,
    pub labels: Group,
}

pub fn draw_client(panel: &Panel, client: usize, top: f64, layers: &mut Layers) {
    let lane = Lane::Client(client);
    let y = panel.client_line(&lane, top);
    let label_y = if panel.is_first(&lane) { y - 9.0 } else { y + 17.0 };
    let groups = panel.action_groups(client);
    let mut used = LEFT - 3.0;
    for (index, group) in groups.iter().enumerate() {
        let x = panel.axis.place(group.from);
        let end = panel.axis.place(group.to);
        if group.actions.len() > 1 {
            let bar = rectangle("spot", x - 3.5, y - 3.5, end - x + 7.0, 7.0);
            layers.bars.append(bar.set("rx", 3.5));
        } else {
            layers.bars.append(spot("spot", x, y, 3.5));
        }
        let next = groups.get(index + 1).map_or(LEFT + FIELD, |next| panel.axis.place(next.from));
        // The label begins at the spot, or before it so that it ends before a cut.
        let free = panel.axis.free(x, next).first().map_or(next, |part| part.end);
        let width = text_width(&group.label, SMALL);
        let left = (free - width - 2.0).min(x - 3.0);
        if left >= used {
            layers.labels.append(text("halo", "start", left, label_y, &group.label));
            used = left + width + 4.0;
        }
    }
}

pub fn draw_thread(panel: &Panel, thread: usize, top: f64, arrows: &[Arrow], layers: &mut Layers) {
    let Thread { calls, .. } = &panel.timeline.threads[thread];
    let y = top + panel.above();
    let items = panel.items(thread);
    for (index, item) in items.iter().enumerate() {
        match item {
            Item::Call(call) => {
                let next = items.get(index + 1);
                let next = next.map_or(panel.to, |item| calls[item.first()].start);
                draw_call(panel, &calls[*call], next, y, arrows, layers);
            }
            Item::Repeated { calls: range, times } => {
                draw_repeated(panel, &calls[range.clone()], *times, y, layers);
            }
        }
    }
    label_signals(panel, thread, y, arrows, layers);
}

fn draw_call(
    panel: &Panel,
    call: &Call,
    next: Nanos,
    y: f64,
    arrows: &[Arrow],
    layers: &mut Layers,
) {
    let (from, to) = panel.visible(call);
    let x = panel.axis.place(from);
    let mut end = panel.axis.place(to);
    if call.from_log {
        end = (x + label_width(call) + PADDING + 2.0).min(panel.axis.place(next) - 2.0);
    }
    end = end.max(x + 2.0);
    let unblocked = call.blocked_until.map(|until| panel.axis.place(until.clamp(from, to)));

    let mut bar = Group::new().add(Title::new(tooltip(call)));
    if call.from_log {
        let outline = rectangle("from-log", x + 1.0, y + 1.0, end - x - 2.0, BAR - 2.0);
        bar.append(outline.set("rx", 3));
    } else {
        let rest = unblocked.unwrap_or(x);
        if unblocked.is_some() {
            bar.append(rectangle("waiting", x, y, rest - x, BAR));
        }
        if end > rest {
            if unblocked.is_some() && call.phase == Phase::Copying {
                bar.append(blend(rest, y, end - rest, BAR));
            } else {
                bar.append(rectangle(class(call.phase), rest, y, end - rest, BAR));
            }
        }
        bar.append(rectangle("edge", x, y, end - x, BAR));
    }
    layers.bars.append(bar);

    label_call(panel, call, x..end, unblocked, y, arrows, layers);
    let at_end = call.is_step_at_end();
    let is_inside = if at_end { call.end < panel.to } else { call.start >= panel.from };
    if let Some(step) = call.step.filter(|_| is_inside) {
        let at = place_step(x..end, at_end, y, arrows);
        layers.labels.append(step_number(at, y - 9.0, step.number));
    }
}

/// Labels the bar of a call: name and outcome where it ends, and the name at its start too if
/// there is a cut in between.
fn label_call(
    panel: &Panel,
    call: &Call,
    bar: Range<f64>,
    unblocked: Option<f64>,
    y: f64,
    arrows: &[Arrow],
    layers: &mut Layers,
) {
    // On a bar of one color, a label gets an outline of that color, which covers arrows.
    let style = |left: f64, right: f64| match unblocked {
        _ if call.from_log => String::new(),
        Some(unblocked) if right <= unblocked => "inside on waiting-label".to_owned(),
        Some(unblocked) if left < unblocked || call.phase == Phase::Copying => "inside".to_owned(),
        _ => format!("inside on {}-label", class(call.phase)),
    };
    let fits =
        |part: &Range<f64>, label: &str| part.end - part.start >= text_width(label, SMALL) + 6.0;
    // The outcome is not known before the call returns.
    let outcome = Some(&call.outcome).filter(|it| !it.is_empty() && call.end <= panel.to);
    let free = panel.axis.free(bar.start, bar.end);
    let last = outcome.and_then(|outcome| {
        free.iter().rposition(|part| fits(part, &call.label) && fits(part, outcome))
    });
    if let (Some(last), Some(outcome)) = (last, outcome) {
        let half = label_width(call) / 2.0;
        let at = place_label(&free[last], half, (y + 4.0, y + 31.0), arrows);
        let style = style(at - half, at + half);
        layers.labels.append(text(&style, "middle", at, y + 14.0, &call.label));
        layers.labels.append(text(&style, "middle", at, y + 28.0, outcome));
    }
    let first = free.iter().position(|part| fits(part, &call.label));
    if let Some(first) = first.filter(|&first| Some(first) != last) {
        let half = text_width(&call.label, SMALL) / 2.0;
        let at = place_label(&free[first], half, (y + 10.0, y + 24.0), arrows);
        let style = style(at - half, at + half);
        layers.labels.append(text(&style, "middle", at, y + BAR / 2.0 + 4.0, &call.label));
    }
}

/// Returns where the middle of a label stands in `part`: in the middle, or as near to it as
/// possible without an arrow through the label. The label is twice `half` wide.
fn place_label(part: &Range<f64>, half: f64, (top, bottom): (f64, f64), arrows: &[Arrow]) -> f64 {
    let middle = f64::midpoint(part.start, part.end);
    let room = (part.end - part.start) / 2.0 - half - 2.0;
    let shifts = (0..=(room / 3.0) as usize).map(|step| step as f64 * 3.0);
    let mut places = shifts.flat_map(|shift| [middle + shift, middle - shift]);
    let is_free = |at: &f64| {
        let (left, right) = (at - half - 3.0, at + half + 3.0);
        !arrows.iter().any(|arrow| arrow.crosses((left, top), (right, bottom)))
    };
    places.find(is_free).unwrap_or(middle)
}

/// Draws repeated calls as a comb without names, with the number of iterations above it.
fn draw_repeated(panel: &Panel, calls: &[Call], times: usize, y: f64, layers: &mut Layers) {
    const COMB: f64 = 14.0;
    let (Some(first), Some(last)) = (calls.first(), calls.last()) else { return };
    let x = panel.axis.place(first.start.max(panel.from));
    let end = panel.axis.place(last.end.min(panel.to));
    // As many teeth as the eye can separate, each with the color of one of the calls.
    let count = (((end - x) / 4.0) as usize).clamp(1, calls.len());
    let width = (end - x) / count as f64;
    for tooth in 0..count {
        let phase = calls[tooth * calls.len() / count].phase;
        let at = x + width * tooth as f64;
        layers.bars.append(rectangle(class(phase), at, y + BAR - COMB, width * 0.7, COMB));
    }
    let label = repeat::label(times);
    let label_width = text_width(&label, SMALL);
    let free = panel.axis.free(x, end);
    if let Some(part) = free.iter().find(|part| part.end - part.start >= label_width) {
        let at = f64::midpoint(part.start, part.end);
        layers.labels.append(text("halo", "middle", at, y + 14.0, &label));
    }
}

/// Puts the name of each signal beside its arrow, on the side that is free.
fn label_signals(panel: &Panel, thread: usize, y: f64, arrows: &[Arrow], layers: &mut Layers) {
    let signals = panel.timeline.threads[thread].signals.iter();
    let places: Vec<(f64, &str)> = signals
        .filter(|signal| panel.contains(signal.at))
        .map(|signal| (panel.axis.place(signal.at), signal.name.as_str()))
        .collect();
    let mut used = LEFT;
    for (index, &(x, name)) in places.iter().enumerate() {
        let width = text_width(name, SMALL);
        let bottom = y + BAR + NOTES - 2.0;
        let next = places.get(index + 1).map_or(LEFT + FIELD, |&(next, _)| next - 4.0);
        let is_free = |&left: &f64| {
            let right = left + width;
            let corner = (left - 1.0, bottom - 11.0);
            let opposite = (right + 1.0, bottom + 2.0);
            let is_crossed = arrows.iter().any(|arrow| arrow.crosses(corner, opposite));
            let has_no_cut = panel.axis.free(left, right) == [left..right];
            left >= used && right <= next && has_no_cut && !is_crossed
        };
        if let Some(left) = [x + 6.0, x - 6.0 - width].into_iter().find(is_free) {
            layers.labels.append(text("halo", "start", left, bottom - 1.0, name));
            used = left + width + 4.0;
        }
        used = used.max(x + 4.0);
    }
}

/// The text that a browser shows for a bar under the mouse.
fn tooltip(call: &Call) -> String {
    if call.from_log {
        return format!("No call. The server's log reports: {} {}", call.label, call.outcome);
    }
    let args: String = call.args.chars().take(160).collect();
    format!("{}({args}) = {}, {}", call.name, call.result, duration(call.end - call.start))
}
