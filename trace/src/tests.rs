//! Recorded traces, from the parser to the figures, and one live trace.
//!
//! The recordings in `tests/fixtures` are real. Removed from them are the lines from before the
//! server listened, except `socketpair`, and most of the non-blocking server's calls that
//! returned EAGAIN.

mod drawing;
mod live;
mod parsing;
mod phases;

use crate::call::{Call, Thread};
use crate::session::{Action, ActionKind};
use crate::strace::Nanos;
use crate::syscalls::Direction;
use crate::timeline::Timeline;
use crate::{build_timeline, servers};

fn timeline(name: &str, recording: &str) -> Timeline {
    let server = servers::find(name).expect("the server is in the catalog");
    build_timeline(server, recording).expect("the recording contains a session")
}

macro_rules! recorded {
    ($name:literal) => {
        crate::tests::timeline(
            $name,
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/tests/fixtures/",
                $name,
                ".trace"
            )),
        )
    };
}
use recorded;

fn all_recorded() -> Vec<Timeline> {
    vec![
        recorded!("blocking-echo"),
        recorded!("blocking-echo-fork"),
        recorded!("nonblocking-echo"),
        recorded!("select-echo"),
        recorded!("poll-echo"),
        recorded!("epoll-echo"),
        recorded!("sigio-echo"),
        recorded!("aio-echo"),
        recorded!("uring-echo"),
        recorded!("reactor-chat"),
        recorded!("proactor-chat"),
        recorded!("proactor-chat-simulated"),
    ]
}

impl Timeline {
    fn thread(&self, role: &str) -> &Thread {
        let thread = self.threads.iter().find(|thread| thread.role == role);
        thread.unwrap_or_else(|| panic!("no {role} among {:?}", self.roles()))
    }

    fn roles(&self) -> Vec<&str> {
        self.threads.iter().map(|thread| thread.role.as_str()).collect()
    }

    /// The time at which A sent the message that ended the silence.
    fn arrival(&self) -> Nanos {
        let is_sent = |action: &&Action| matches!(action.kind, ActionKind::Send(_));
        self.session.clients[0].actions.iter().find(is_sent).expect("A sends").start
    }

    /// The call that copied that message, and its thread.
    fn copy(&self) -> (&Thread, &Call) {
        let arrival = self.arrival();
        let message = self.messages.iter().find(|message| {
            let action = self.session.clients[message.client].actions[message.action];
            message.direction == Direction::In && action.start == arrival
        });
        let id = message.expect("a call took the message").call;
        (&self.threads[id.thread], self.call(id))
    }
}

impl Thread {
    /// The call in which the thread was at `time`.
    fn call_at(&self, time: Nanos) -> Option<&Call> {
        self.calls.iter().find(|call| call.start < time && time <= call.end)
    }

    fn waits_at(&self, time: Nanos) -> bool {
        self.call_at(time).is_some_and(|call| call.waits_at(time))
    }
}
