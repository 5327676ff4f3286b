//! The arrows of a panel: messages, wake-ups and signals.

use super::panel::{BAR, NOTES, Panel};
use crate::call::{CallId, Phase};
use crate::repeat::Item;
use crate::style::Arrow;
use crate::syscalls::Direction;
use crate::timeline::{Message, Wake};

/// Returns all arrows. `tops` are the tops of the lanes.
pub fn arrows(panel: &Panel, tops: &[f64]) -> Vec<Arrow> {
    let messages = panel.timeline.messages.iter();
    let mut arrows: Vec<Arrow> =
        messages.filter_map(|message| message_arrow(panel, message, tops)).collect();
    arrows.extend(wake_arrows(panel, tops));
    arrows.extend(signal_arrows(panel, tops));
    arrows
}

fn message_arrow(panel: &Panel, message: &Message, tops: &[f64]) -> Option<Arrow> {
    let &Message { client, action, call: id, direction } = message;
    let thread_lane = panel.lane_of_thread(id.thread)?;
    let client_lane = panel.lane_of_client(client)?;
    let call = panel.timeline.call(id);
    // Of repeated calls, only the first iteration has a place.
    let items = panel.items(id.thread);
    let is_shown = items.iter().any(|item| matches!(item, Item::Call(call) if *call == id.call));
    let action_at = panel.timeline.session.clients[client].actions[action].at();
    let call_at = action_at.clamp(call.start, call.end);
    if !is_shown || !panel.contains(call_at) || action_at >= panel.to {
        return None;
    }
    let goes_down = client_lane < thread_lane;
    let bar_top = tops[thread_lane] + panel.above();
    let bar_y = if goes_down { bar_top } else { bar_top + BAR };
    let gap = if goes_down { 4.0 } else { -4.0 };
    let client_y = panel.client_line(&panel.lanes[client_lane], tops[client_lane]) + gap;
    let at_client = (panel.axis.place(action_at.max(panel.from)), client_y);
    let at_call = |inside: f64| (panel.axis.place(call_at) + inside, bar_y);
    match direction {
        Direction::In => {
            // Into the bar, not to its edge, where another bar may begin.
            let (from, to) = panel.visible(call);
            let width = panel.axis.place(to) - panel.axis.place(from);
            let inside = if call_at == call.start { (width / 2.0).min(6.0) } else { 0.0 };
            let class = if action_at < panel.from { "message early" } else { "message" };
            Some(Arrow { class, from: at_client, to: at_call(inside) })
        }
        Direction::Out if action_at < panel.from => None,
        Direction::Out => {
            let inside = if call_at == call.end { -3.0 } else { 0.0 };
            Some(Arrow { class: "message", from: at_call(inside), to: at_client })
        }
    }
}

/// Returns an arrow from the bars of one thread to those of another.
fn between_threads(
    panel: &Panel,
    tops: &[f64],
    (from, from_x): (usize, f64),
    (to, to_x): (usize, f64),
    class: &'static str,
) -> Option<Arrow> {
    let from = panel.lane_of_thread(from)?;
    let to = panel.lane_of_thread(to)?;
    let (from_y, to_y) = (tops[from] + panel.above(), tops[to] + panel.above());
    let (from_y, to_y) = if from < to { (from_y + BAR, to_y) } else { (from_y, to_y + BAR) };
    Some(Arrow { class, from: (from_x, from_y), to: (to_x, to_y) })
}

fn wake_arrows(panel: &Panel, tops: &[f64]) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for &Wake { by, woken } in &panel.timeline.wakes {
        let waker = panel.timeline.call(by);
        let sleeper = panel.timeline.call(woken);
        // A read that found the data already there was not woken.
        let slept = sleeper.phase == Phase::Waiting;
        let times = [waker.start, waker.end, sleeper.end];
        if slept && times.into_iter().all(|time| panel.contains(time)) {
            let to = panel.axis.place(sleeper.end);
            let from = panel.axis.place(waker.end).min(to);
            arrows.extend(between_threads(
                panel,
                tops,
                (by.thread, from),
                (woken.thread, to),
                "wake",
            ));
        }
    }
    arrows
}

/// The signals come from another thread or from the kernel.
fn signal_arrows(panel: &Panel, tops: &[f64]) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for (receiver, thread) in panel.timeline.threads.iter().enumerate() {
        let Some(lane) = panel.lane_of_thread(receiver) else { continue };
        for signal in thread.signals.iter().filter(|signal| panel.contains(signal.at)) {
            let x = panel.axis.place(signal.at);
            let Some(sender @ CallId { thread, .. }) = signal.sender else {
                let y = tops[lane] + panel.above() + BAR;
                arrows.push(Arrow { class: "signal", from: (x, y + NOTES - 1.0), to: (x, y) });
                continue;
            };
            let sent = panel.timeline.call(sender).start;
            if panel.contains(sent) {
                let from = (thread, panel.axis.place(sent) + 3.0);
                arrows.extend(between_threads(panel, tops, from, (receiver, x), "signal"));
            }
        }
    }
    arrows
}
