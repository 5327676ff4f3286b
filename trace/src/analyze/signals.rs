//! The signals that were fetched instead of delivered, and the senders of signals.

use crate::call::Signal;
use crate::strace::{Nanos, arguments};
use crate::timeline::Timeline;

/// A signal that arrives later than this after a `kill` was sent by another call.
const MAX_DELAY: Nanos = 20_000_000;

pub fn find(timeline: &mut Timeline) {
    find_fetched(timeline);
    find_senders(timeline);
}

/// Adds the signals that a thread took with `rt_sigtimedwait` or from a signalfd.
fn find_fetched(timeline: &mut Timeline) {
    for thread in &mut timeline.threads {
        for call in &thread.calls {
            let name = match call.outcome.strip_prefix("= ") {
                Some(signal) if call.name == "rt_sigtimedwait" => signal.to_owned(),
                _ if call.label == "read(signalfd)" && !call.would_block => String::new(),
                _ => continue,
            };
            thread.signals.push(Signal { name, at: call.end, sender: None });
        }
        thread.signals.sort_by_key(|signal| signal.at);
    }
}

fn find_senders(timeline: &mut Timeline) {
    let senders = timeline
        .call_ids(|call| matches!(call.name.as_str(), "rt_sigqueueinfo" | "tgkill" | "kill"));
    for id in senders {
        let call = timeline.call_mut(id);
        let start = call.start;
        let name = arguments(&call.args).into_iter().find(|part| part.starts_with("SIG"));
        let Some(name) = name.map(str::to_owned) else { continue };
        call.outcome.clone_from(&name);
        let received = (timeline.threads.iter_mut().flat_map(|thread| &mut thread.signals))
            .filter(|signal| signal.name.is_empty() || signal.name == name)
            .filter(|signal| (start..start + MAX_DELAY).contains(&signal.at))
            .min_by_key(|signal| signal.at);
        if let Some(signal) = received {
            signal.name = name;
            // A signal that is already pending is not queued again, so the first sender counts.
            signal.sender = signal.sender.or(Some(id));
        }
    }
}
