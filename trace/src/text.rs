//! The same in the terminal: a line an event, the phase in the margin.

use anstyle::{AnsiColor, Style};

use crate::play::{What, moment};
use crate::repeat::{Item, again, items};
use crate::story::{Call, Phase, Story};
use crate::strace::Nanos;
use crate::style::{amount, duration};

const CLIENT: Style = AnsiColor::Blue.on_default().bold();
const SIGNAL: Style = AnsiColor::Magenta.on_default().bold();
const WAIT: Style = AnsiColor::Yellow.on_default();
const COPY: Style = AnsiColor::Green.on_default().bold();
const PLAIN: Style = Style::new();
const FAINT: Style = Style::new().dimmed();

struct Line {
    at: Nanos,
    who: String,
    phase: &'static str,
    what: String,
    took: Option<Nanos>,
    style: Style,
}

/// The whole play.
pub fn tell(story: &Story) -> String {
    let start = story.play.acts.first().map_or(0, |act| act.at);
    let mut text = format!("{}: {}\n", story.server.name, story.server.idea);
    text +=
        "milliseconds, who, phase, what, and how long it took (strace makes every call slower);\n";
    text += "a call that waited stands where it ended\n";
    if !story.server.steps.is_empty() {
        text += "(1), (2) …: the steps that the header of the server's file numbers\n";
    }
    for (number, act) in story.play.acts.iter().enumerate() {
        let bold = Style::new().bold();
        text += &format!("\n{bold}{}. {}{bold:#}\n", number + 1, act.title);
        let mut lines = client_lines(story, act.at, story.play.act_end(number));
        lines.extend(thread_lines(story, act.at, story.play.act_end(number)));
        lines.sort_by_key(|line| line.at);
        for Line { at, who, phase, what, took, style } in lines {
            let millis = (at - start) as f64 / 1e6;
            text += &format!("{millis:10.3}  {who:<12} {style}{phase:<11} {what}{style:#}");
            if let Some(took) = took.map(duration) {
                let room = 40_usize.saturating_sub(what.chars().count());
                text += &format!("{:room$} {FAINT}{took}{FAINT:#}", "");
            }
            text.push('\n');
        }
    }
    text
}

fn client_lines(story: &Story, from: Nanos, to: Nanos) -> Vec<Line> {
    let deeds = story
        .play
        .clients
        .iter()
        .flat_map(|client| client.deeds.iter().map(move |deed| (client, deed)));
    let line = |(client, deed): (&crate::play::Client, &crate::play::Deed)| {
        let what = match deed.what {
            What::Connect => "connects".to_owned(),
            What::Send(bytes) => format!("sends {}", amount(bytes)),
            What::Receive(bytes) => format!("gets {}", amount(bytes)),
            What::Leave => "leaves".to_owned(),
        };
        let who = format!("client {}", client.name);
        Line { at: moment(deed), who, phase: "", what, took: None, style: CLIENT }
    };
    deeds.map(line).filter(|line| (from..to).contains(&line.at)).collect()
}

fn thread_lines(story: &Story, from: Nanos, to: Nanos) -> Vec<Line> {
    let mut lines = Vec::new();
    for thread in &story.threads {
        for item in items(&thread.calls, from, to) {
            match item {
                // A call belongs to the act in which it returns.
                Item::One(call) => {
                    let call = &thread.calls[call];
                    let here = (from..to).contains(&call.end);
                    lines.extend(here.then(|| call_line(&thread.role, call)));
                }
                Item::Again { calls, times } => {
                    let calls = &thread.calls[calls];
                    let took = calls.last().map_or(0, |last| last.end.min(to)) - calls[0].start;
                    let (at, who, what) = (calls[0].start, thread.role.clone(), again(times));
                    lines.push(Line { at, who, phase: "", what, took: Some(took), style: FAINT });
                }
            }
        }
        for signal in &thread.signals {
            let (who, what) = (thread.role.clone(), signal.name.clone());
            lines.push(Line { at: signal.at, who, phase: "", what, took: None, style: SIGNAL });
        }
    }
    // A call belongs to the act in which it stands.
    lines.retain(|line| (from..to).contains(&line.at));
    lines
}

fn call_line(role: &str, call: &Call) -> Line {
    let waited = call.phases().iter().any(|(phase, ..)| *phase == Phase::Waiting);
    let (phase, style) = match (waited, call.phase) {
        (true, Phase::Copying) => ("wait, copy", COPY),
        (true, _) => ("wait", WAIT),
        (_, Phase::Copying) => ("copy", COPY),
        _ => ("", if call.vain || call.minor { FAINT } else { PLAIN }),
    };
    let step = call.step.map(|step| format!("({}) ", step.number)).unwrap_or_default();
    let told = if call.told { "done: " } else { "" };
    let what = format!("{step}{told}{} {}", call.title, call.answer);
    let took = (!call.told).then_some(call.end - call.start);
    // A wait is over when it ends: what ended it comes before it.
    let at = if waited { call.end } else { call.start };
    Line { at, who: role.to_owned(), phase, what, took, style }
}
