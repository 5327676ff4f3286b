//! The figure of a server: a panel for each part of the session, with a lane for each client and
//! thread.

mod arrows;
mod bars;
mod lanes;
mod legend;
mod panel;
mod steps;

use svg::node::element::Group;
use svg::{Document, Node};

use crate::layout::{QUIET, text_width};
use crate::session::ActionKind;
use crate::strace::Nanos;
use crate::style::{SMALL, WIDTH, duration, line, page, rectangle, tear, text, wrap};
use crate::timeline::Timeline;
use bars::Layers;
use lanes::{Lane, lanes};
use legend::Legend;
use panel::{BAR, GAP, HEAD, LEFT, MARGIN, Panel};

/// Draws all parts of the session.
pub fn draw(timeline: &Timeline) -> Document {
    let lanes = lanes(timeline);
    let parts = 0..timeline.session.parts.len();
    let panels: Vec<Panel> = parts.map(|part| Panel::new(timeline, &lanes, part)).collect();
    let (header, top) = draw_header(timeline);
    let height = top + panels.iter().map(|panel| panel.height + GAP).sum::<f64>() + 5.0;
    let name = format!("{} drawn from a trace of its system calls", timeline.server.name());
    let mut document = page(height, &name).add(header);
    let mut y = top;
    for panel in &panels {
        document.append(draw_panel(panel, y));
        y += panel.height + GAP;
    }
    document
}

/// Draws the name, the summary and the legend. Also returns the bottom.
fn draw_header(timeline: &Timeline) -> (Group, f64) {
    let mut y = 30.0;
    let mut group = Group::new().add(text("title", "start", MARGIN, y, timeline.server.name()));
    for line in wrap(timeline.server.notes.summary, 13.0, WIDTH - 2.0 * MARGIN) {
        y += 19.0;
        group.append(text("idea", "start", MARGIN, y, &line));
    }
    let (legend, bottom) = Legend::new(timeline).draw(MARGIN, y + 12.0);
    (group.add(legend), bottom)
}

fn draw_panel(panel: &Panel, top: f64) -> Group {
    let mut tops = Vec::new();
    let mut y = top + HEAD;
    for lane in &panel.lanes {
        tops.push(y);
        y += panel.lane_height(lane) + GAP;
    }
    let bottom = y - GAP;
    let title = &panel.timeline.session.parts[panel.part].title;
    let title = format!("{}. {title}", panel.part + 1);
    let width = WIDTH - 2.0 * MARGIN + 12.0;
    let mut group = Group::new()
        .add(rectangle("panel", MARGIN - 6.0, top, width, panel.height).set("rx", 6))
        .add(text("head", "start", MARGIN, top + 18.0, &title));
    for (lane, &y) in panel.lanes.iter().zip(&tops) {
        group.append(draw_lifeline(panel, lane, y));
    }
    let arrows = arrows::arrows(panel, &tops);
    let mut layers = Layers::default();
    for (lane, &y) in panel.lanes.iter().zip(&tops) {
        match lane {
            Lane::Client(client) => bars::draw_client(panel, *client, y, &mut layers),
            Lane::Threads(threads) => {
                bars::draw_thread(panel, threads[0], y, &arrows, &mut layers);
            }
        }
    }
    group.append(layers.bars);
    for (from, to) in panel.axis.cuts() {
        group.append(tear(from, to, top + HEAD - 2.0, bottom));
    }
    for arrow in &arrows {
        group.append(arrow.draw());
    }
    group.append(layers.labels);
    group.append(draw_ruler(panel, bottom + 5.0));
    group
}

/// Draws the name of a lane, and a line for the time in which its client or thread exists.
fn draw_lifeline(panel: &Panel, lane: &Lane, top: f64) -> Group {
    let (name, y, class, from, to) = match lane {
        Lane::Client(client) => {
            let client = &panel.timeline.session.clients[*client];
            let connected = client.actions.first().map_or(panel.from, |action| action.start);
            let mut actions = client.actions.iter();
            let last = actions.find(|action| action.kind == ActionKind::Disconnect);
            let disconnected = last.map_or(panel.to, |action| action.start);
            let name = vec![format!("client {}", client.name)];
            (name, panel.client_line(lane, top), "client", connected, disconnected)
        }
        Lane::Threads(threads) => {
            let first = &panel.timeline.threads[threads[0]];
            let name = if threads.len() > 1 {
                vec![first.role.clone(), format!("and {} more", threads.len() - 1)]
            } else {
                wrap(&first.role, SMALL, LEFT - MARGIN - 6.0)
            };
            let died = first.died.unwrap_or(panel.to);
            (name, top + panel.above() + BAR / 2.0, "life", first.born, died)
        }
    };
    let mut group = Group::new();
    let shift = (name.len() as f64 - 1.0) * 6.5;
    for (index, part) in name.iter().enumerate() {
        let y = y + 4.0 - shift + 13.0 * index as f64;
        group.append(text("", "start", MARGIN, y, part));
    }
    let (from, to) = (from.max(panel.from), to.min(panel.to));
    if from < to {
        group.append(line(class, panel.axis.place(from), y, panel.axis.place(to), y));
    }
    group
}

/// Draws the durations: of each stretch that is cut, and of what is between them.
fn draw_ruler(panel: &Panel, y: f64) -> Group {
    struct Stretch {
        duration: Nanos,
        from: f64,
        to: f64,
        is_quiet: bool,
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    for (duration, from, to) in panel.axis.stretches() {
        let is_quiet = duration >= QUIET;
        match stretches.last_mut() {
            Some(last) if !last.is_quiet && !is_quiet => {
                last.duration += duration;
                last.to = to;
            }
            _ => stretches.push(Stretch { duration, from, to, is_quiet }),
        }
    }
    let mut group = Group::new();
    for Stretch { duration: length, from, to, .. } in stretches {
        group.append(line("rule", from, y, from, y + 6.0));
        group.append(line("rule", to, y, to, y + 6.0));
        group.append(line("rule", from, y + 3.0, to, y + 3.0));
        let label = duration(length);
        if to - from >= text_width(&label, SMALL) + 2.0 {
            let middle = f64::midpoint(from, to);
            group.append(text("muted", "middle", middle, y + 15.0, &label));
        }
    }
    group
}
