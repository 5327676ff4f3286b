//! The lanes of a figure: one for each client and each thread.

use crate::timeline::Timeline;

/// What a lane shows.
#[derive(Clone, Debug)]
pub enum Lane {
    Client(usize),
    /// Usually one thread. Threads that wait in the same call during the whole session share a
    /// lane.
    Threads(Vec<usize>),
}

/// Returns the lanes from the top: A, A's thread, the threads of both clients, B's thread, B.
///
/// The arrows are short in this order, and it is the same whenever a server is traced.
pub fn lanes(timeline: &Timeline) -> Vec<Lane> {
    let start = timeline.session.start();
    let end = timeline.session.end;
    let mut of_a = Vec::new();
    let mut of_both = Vec::new();
    let mut of_b = Vec::new();
    let mut idle = Vec::new();
    for (index, thread) in timeline.threads.iter().enumerate() {
        let calls = &thread.calls;
        let is_idle = calls.len() == 1 && calls[0].start < start && calls[0].end >= end;
        if is_idle {
            idle.push(index);
        } else if thread.role.contains(" of A") {
            of_a.push(Lane::Threads(vec![index]));
        } else if thread.role.contains(" of B") {
            of_b.push(Lane::Threads(vec![index]));
        } else {
            of_both.push(Lane::Threads(vec![index]));
        }
    }
    let mut lanes = vec![Lane::Client(0)];
    lanes.extend(of_a);
    lanes.extend(of_both);
    if !idle.is_empty() {
        lanes.push(Lane::Threads(idle));
    }
    lanes.extend(of_b);
    lanes.extend((1..timeline.session.clients.len()).map(Lane::Client));
    lanes
}
