//! From a recording to the timeline of a server.

mod completions;
mod messages;
mod roles;
mod signals;
mod steps;
mod trim;
mod waits;
mod wakes;

use crate::decode::decode;
use crate::servers::Server;
use crate::session::Session;
use crate::strace::Record;
use crate::timeline::Timeline;

/// Builds the timeline. Each function adds what it can find out from what is known before it.
pub fn analyze(server: Server, session: Session, records: &[Record]) -> Timeline {
    let threads = decode(&server, &session, records);
    let mut timeline =
        Timeline { server, session, threads, messages: Vec::new(), wakes: Vec::new() };
    waits::correct_ends(&mut timeline);
    messages::find(&mut timeline);
    completions::find(&mut timeline);
    waits::find(&mut timeline);
    wakes::find(&mut timeline);
    roles::name_threads(&mut timeline);
    signals::find(&mut timeline);
    steps::number(&mut timeline);
    trim::to_session(&mut timeline);
    timeline
}
