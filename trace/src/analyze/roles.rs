//! Names for the threads that have not named themselves.

use std::collections::HashMap;

use crate::strace::leading_number;
use crate::timeline::Timeline;

/// Names each of them after its client, or numbers it.
pub fn name_threads(timeline: &mut Timeline) {
    let unnamed = timeline.server.notes.unnamed_threads;
    let mut count = 0;
    let mut names: Vec<String> = Vec::new();
    for thread in timeline.threads.iter_mut().filter(|thread| thread.role == unnamed) {
        let copies = thread.calls.iter().filter(|call| call.copied.is_some());
        let mut clients = copies.map(|call| call.client);
        let first = clients.next().flatten();
        let only_client = first.filter(|_| clients.all(|client| client == first));
        let name = match (unnamed.strip_suffix(" of"), only_client) {
            (Some(_), Some(client)) => {
                format!("{unnamed} {}", timeline.session.clients[client].name)
            }
            (kind, _) => {
                count += 1;
                format!("{} {count}", kind.unwrap_or(unnamed))
            }
        };
        // Several threads may serve the same client, one after the other.
        let same = names.iter().filter(|other| **other == name).count();
        thread.role = if same == 0 { name.clone() } else { format!("{name} ({})", same + 1) };
        names.push(name);
    }
    name_in_clones(timeline);
}

/// Replaces the thread id that `clone` or `fork` returned by the name of the thread.
fn name_in_clones(timeline: &mut Timeline) {
    let roles: HashMap<i32, String> =
        timeline.threads.iter().map(|thread| (thread.tid, thread.role.clone())).collect();
    for call in timeline.threads.iter_mut().flat_map(|thread| &mut thread.calls) {
        if call.name.starts_with("clone") || call.name.ends_with("fork") {
            let tid = leading_number(&call.result);
            if let Some(role) = tid.and_then(|tid| roles.get(&tid)) {
                call.outcome.clone_from(role);
            }
        }
    }
}
