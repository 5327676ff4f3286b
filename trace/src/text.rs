//! The timeline in the terminal: a line for each event, with its phase. The lines fit 80 columns.

use anstyle::{AnsiColor, Style};

use crate::call::{Call, Phase};
use crate::repeat::{self, Item, items};
use crate::session::ActionKind;
use crate::strace::Nanos;
use crate::style::{amount, duration};
use crate::timeline::Timeline;

const CLIENT: Style = AnsiColor::Blue.on_default().bold();
const SIGNAL: Style = AnsiColor::Magenta.on_default().bold();
const WAIT: Style = AnsiColor::Yellow.on_default();
const COPY: Style = AnsiColor::Green.on_default().bold();
const PLAIN: Style = Style::new();
const FAINT: Style = Style::new().dimmed();

/// The widths of the columns, with a space between two of them: 80 in all.
const TIME_WIDTH: usize = 8;
const ACTOR_WIDTH: usize = 13;
const PHASE_WIDTH: usize = 5;
const EVENT_WIDTH: usize = 42;
const DURATION_WIDTH: usize = 8;

const HEADING: &str = "\
Columns: milliseconds, client or thread, phase, event, duration. strace slows
every call. A call that waited stands at the time at which its wait ended.
";

struct Line {
    at: Nanos,
    actor: String,
    phase: &'static str,
    event: String,
    duration: Option<Nanos>,
    style: Style,
}

/// Returns the whole session as text.
pub fn render(timeline: &Timeline) -> String {
    let start = timeline.session.start();
    let title = format!("{}: {}", timeline.server.name(), timeline.server.notes.summary);
    let mut text = fold(&title);
    text += HEADING;
    if !timeline.server.notes.steps.is_empty() {
        text += "(1), (2) …: the steps in the header of the server's file.\n";
    }
    for (number, part) in timeline.session.parts.iter().enumerate() {
        let bold = Style::new().bold();
        text += &format!("\n{bold}{}. {}{bold:#}\n", number + 1, part.title);
        let end = timeline.session.part_end(number);
        let mut lines = client_lines(timeline, part.start, end);
        lines.extend(thread_lines(timeline, part.start, end));
        lines.sort_by_key(|line| line.at);
        for line in lines {
            text += &line.render(start);
        }
    }
    text
}

impl Line {
    fn render(&self, start: Nanos) -> String {
        let Self { at, actor, phase, event, duration: length, style } = self;
        let millis = (at - start) as f64 / 1e6;
        let actor = shorten(actor, ACTOR_WIDTH);
        let event = shorten(event, EVENT_WIDTH);
        let mut line = format!(
            "{millis:TIME_WIDTH$.3} {actor:ACTOR_WIDTH$} \
             {style}{phase:PHASE_WIDTH$} {event}{style:#}"
        );
        if let Some(length) = length.map(duration) {
            let width = EVENT_WIDTH - event.chars().count() + 1 + DURATION_WIDTH;
            line += &format!("{FAINT}{length:>width$}{FAINT:#}");
        }
        line + "\n"
    }
}

/// Cuts a text that is too long for its column.
fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(width - 1).collect();
    beginning + "…"
}

/// Breaks a text into lines of at most 80 columns.
fn fold(text: &str) -> String {
    let mut folded = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > 80 {
            folded.push('\n');
            column = 0;
        }
        if column > 0 {
            folded.push(' ');
            column += 1;
        }
        folded += word;
        column += length;
    }
    folded + "\n"
}

fn client_lines(timeline: &Timeline, from: Nanos, to: Nanos) -> Vec<Line> {
    let mut lines = Vec::new();
    for client in &timeline.session.clients {
        for action in &client.actions {
            if !(from..to).contains(&action.at()) {
                continue;
            }
            let event = match action.kind {
                ActionKind::Connect => "connects".to_owned(),
                ActionKind::Send(bytes) => format!("sends {}", amount(bytes)),
                ActionKind::Receive(bytes) => format!("receives {}", amount(bytes)),
                ActionKind::Disconnect => "disconnects".to_owned(),
            };
            let actor = format!("client {}", client.name);
            let at = action.at();
            lines.push(Line { at, actor, phase: "", event, duration: None, style: CLIENT });
        }
    }
    lines
}

fn thread_lines(timeline: &Timeline, from: Nanos, to: Nanos) -> Vec<Line> {
    let mut lines = Vec::new();
    for thread in &timeline.threads {
        for item in items(&thread.calls, from, to) {
            match item {
                // A call belongs to the part in which it returns.
                Item::Call(call) => {
                    let call = &thread.calls[call];
                    let is_here = (from..to).contains(&call.end);
                    lines.extend(is_here.then(|| call_line(&thread.role, call)));
                }
                Item::Repeated { calls, times } => {
                    let calls = &thread.calls[calls];
                    let at = calls[0].start;
                    let end = calls.last().map_or(at, |last| last.end.min(to));
                    lines.push(Line {
                        at,
                        actor: thread.role.clone(),
                        phase: "",
                        event: repeat::label(times),
                        duration: Some(end - at),
                        style: FAINT,
                    });
                }
            }
        }
        for signal in &thread.signals {
            lines.push(Line {
                at: signal.at,
                actor: thread.role.clone(),
                phase: "",
                event: signal.name.clone(),
                duration: None,
                style: SIGNAL,
            });
        }
    }
    lines.retain(|line| (from..to).contains(&line.at));
    lines
}

fn call_line(role: &str, call: &Call) -> Line {
    let waited = call.phases().iter().any(|(phase, ..)| *phase == Phase::Waiting);
    let (phase, style) = match (waited, call.phase) {
        (true, Phase::Copying) => ("both", COPY),
        (true, _) => ("wait", WAIT),
        (_, Phase::Copying) => ("copy", COPY),
        _ => ("", if call.would_block || call.minor { FAINT } else { PLAIN }),
    };
    let step = call.step.map(|step| format!("({}) ", step.number)).unwrap_or_default();
    let complete = if call.from_log { "complete: " } else { "" };
    Line {
        // What ended a wait comes before it.
        at: if waited { call.end } else { call.start },
        actor: role.to_owned(),
        phase,
        event: format!("{step}{complete}{} {}", call.label, call.outcome),
        duration: (!call.from_log).then_some(call.end - call.start),
        style,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_and_folded() {
        assert_eq!(shorten("recvfrom(A)", 11), "recvfrom(A)");
        assert_eq!(shorten("recvfrom(A) = 6", 11), "recvfrom(A…");
        let folded = fold(&"word ".repeat(40));
        assert!(folded.lines().count() > 2 && folded.lines().all(|line| line.len() <= 80));
    }
}
