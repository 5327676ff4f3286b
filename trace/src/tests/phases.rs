//! The phases, threads and steps, model by model.

use super::{all_recorded, recorded, timeline};
use crate::call::{Call, CallId, Phase};
use crate::repeat::{Item, items};
use crate::session::{Action, ActionKind};
use crate::strace::Nanos;
use crate::syscalls::Direction;
use crate::timeline::Timeline;

#[test]
fn blocking_waits_in_the_read_that_copies() {
    let thread_per_client = (recorded!("blocking-echo"), "thread of A");
    let process_per_client = (recorded!("blocking-echo-fork"), "child of A");
    for (timeline, role) in [thread_per_client, process_per_client] {
        let (thread, read) = timeline.copy();
        let arrival = timeline.arrival();
        assert_eq!((thread.role.as_str(), read.name.as_str()), (role, "recvfrom"));
        assert!(read.start < arrival);
        assert_eq!((read.blocked_until, read.phase), (Some(arrival), Phase::Copying));
        assert!(timeline.thread("main").waits_at(arrival), "main waits in accept");
        assert!(timeline.threads.iter().all(|thread| thread.waits_at(arrival)));
    }
}

#[test]
fn a_blocking_write_waits_for_a_client_that_reads_late() {
    let timeline = recorded!("blocking-echo");
    let late = timeline.session.parts[3].start;
    let calls = &timeline.thread("thread of A").calls;
    let is_blocked_write =
        |call: &&Call| call.start > late && call.name == "sendto" && call.blocked_until.is_some();
    let write = calls.iter().find(is_blocked_write).expect("a write waits");
    let mut actions = timeline.session.clients[0].actions.iter().map(Action::at);
    let read = actions.find(|&at| at > write.start);
    assert!(write.blocked_until < read, "the write continues when the client reads");
}

#[test]
fn nonblocking_waits_in_no_call() {
    let timeline = recorded!("nonblocking-echo");
    assert_eq!(timeline.roles(), ["main"]);
    let main = timeline.thread("main");
    assert!(main.calls.iter().flat_map(Call::phases).all(|(phase, ..)| phase != Phase::Waiting));
    let (_, read) = timeline.copy();
    assert_eq!((read.phase, read.blocked_until), (Phase::Copying, None));
    let silence = timeline.session.parts[1].start..timeline.arrival();
    let silent: Vec<_> = main.calls.iter().filter(|call| silence.contains(&call.start)).collect();
    assert!(silent.len() > 30);
    assert!(silent.iter().all(|call| call.would_block && call.outcome == "EAGAIN"));
    // The figure summarizes them.
    let items = items(&main.calls, silence.start, silence.end);
    assert!(items.iter().any(|item| matches!(item, Item::Repeated { times, .. } if *times > 5)));
}

#[test]
fn multiplexing_waits_in_the_wait_and_not_in_the_read() {
    let timelines = [recorded!("select-echo"), recorded!("poll-echo"), recorded!("epoll-echo")];
    for (timeline, name) in timelines.iter().zip(["pselect6", "poll", "epoll_wait"]) {
        let main = timeline.thread("main");
        let wait = main.call_at(timeline.arrival()).expect("main is in a call");
        assert_eq!((wait.name.as_str(), wait.phase), (name, Phase::Waiting));
        assert_eq!(wait.outcome, "= A");
        let (_, read) = timeline.copy();
        assert_eq!((read.phase, read.blocked_until), (Phase::Copying, None));
        assert!(wait.end <= read.start);
    }
}

#[test]
fn signal_driven_receives_the_signal_before_it_reads() {
    let timeline = recorded!("sigio-echo");
    let arrival = timeline.arrival();
    let main = timeline.thread("main");
    let sleep = main.call_at(arrival).expect("main is in a call");
    assert_eq!((sleep.label.as_str(), sleep.phase), ("rt_sigsuspend", Phase::Waiting));
    assert_eq!(sleep.outcome, "until SIGIO");
    let signal = main.signals.iter().find(|signal| signal.at > arrival).expect("a signal");
    let (_, read) = timeline.copy();
    assert_eq!(signal.name, "SIGIO");
    assert!(sleep.end <= signal.at && signal.at < read.start);
    assert_eq!((read.phase, read.blocked_until), (Phase::Copying, None));
}

#[test]
fn posix_aio_waits_in_a_helper_thread() {
    let timeline = recorded!("aio-echo");
    let arrival = timeline.arrival();
    let (helper, read) = timeline.copy();
    assert!(helper.role.starts_with("helper"), "{}", helper.role);
    assert_eq!((read.name.as_str(), read.blocked_until), ("read", Some(arrival)));
    let main = timeline.thread("main");
    assert!(main.calls.iter().all(|call| call.copied.is_none()), "main copies nothing");
    assert_eq!(main.call_at(arrival).expect("main is in a call").name, "poll");
    // The helper notifies main by a signal.
    let signal = main.signals.iter().find(|signal| signal.at > read.end).expect("a signal");
    let sender = signal.sender.expect("a thread sent it");
    assert_eq!(signal.name, "SIGUSR1");
    assert_eq!(timeline.call(sender).name, "rt_sigqueueinfo");
    assert_eq!(timeline.threads[sender.thread].role, helper.role);
}

#[test]
fn a_thread_has_the_name_that_it_gave_itself() {
    let recording = include_str!("fixtures/proactor-chat.trace");
    let timeline = timeline("proactor-chat", recording);
    assert_eq!(timeline.roles()[..3], ["main", "calculator", "worker"]);
    for helper in &timeline.threads[3..] {
        assert!(helper.role.starts_with("helper "), "{}", helper.role);
        // For strace, it has the name of the thread that created it.
        assert!(recording.contains(&format!("{}<worker> ", helper.tid)));
    }
    assert!(timeline.thread("worker").calls.iter().all(|call| call.copied.is_none()));
}

#[test]
fn io_uring_reads_without_a_system_call() {
    let timeline = recorded!("uring-echo");
    let arrival = timeline.arrival();
    let main = timeline.thread("main");
    assert!(main.calls.iter().all(|call| call.from_log || call.copied.is_none()));
    let line = main.calls.iter().find(|call| call.from_log && call.start > arrival);
    assert_eq!(line.expect("the log reports it").label, "recv(A)");
    let (_, wait) = timeline.copy();
    assert_eq!((wait.name.as_str(), wait.blocked_until), ("io_uring_enter", Some(arrival)));
    assert_eq!(wait.phase, Phase::Copying);
}

#[test]
fn the_steps_of_the_patterns_move_from_thread_to_thread() {
    let reactor = recorded!("reactor-chat");
    assert_eq!(steps(&reactor), ["3", "4", "5", "6", "7"]);
    let (worker, read) = reactor.copy();
    assert!(worker.role.starts_with("worker"), "{}", worker.role);
    assert_eq!(read.step.map(|step| step.number), Some("4"));

    let proactor = recorded!("proactor-chat");
    assert_eq!(steps(&proactor), ["3", "4", "5", "6", "7"]);
    assert!(proactor.copy().0.role.starts_with("helper"));
    // A signal, its handler, and the worker that reads what the handler wrote.
    let handler = proactor.thread("main").calls.iter().position(|call| {
        call.start > proactor.arrival() && call.step.is_some_and(|step| step.number == "4")
    });
    let by = CallId { thread: 0, call: handler.expect("a signal handler writes") };
    let wake = proactor.wakes.iter().find(|wake| wake.by == by).expect("a worker waits for it");
    let woken = proactor.call(wake.woken);
    let role = proactor.threads[wake.woken.thread].role.as_str();
    assert_eq!((role, woken.phase), ("worker", Phase::Waiting));
    let step = woken.step.map(|step| step.number);
    assert_eq!((woken.label.as_str(), step), ("recvfrom(pair)", Some("5")));

    let simulated = recorded!("proactor-chat-simulated");
    assert_eq!(steps(&simulated), ["3", "4", "5", "6"]);
    assert_eq!(simulated.copy().0.role, "main");
    let workers = simulated.threads.iter().filter(|thread| thread.role.starts_with("worker"));
    assert!(workers.flat_map(|thread| &thread.calls).all(|call| call.copied.is_none()));
}

/// The steps of the message that ends the silence, each where it first occurs.
fn steps(timeline: &Timeline) -> Vec<&'static str> {
    let part = timeline.arrival()..timeline.session.part_end(1);
    let mut seen: Vec<(Nanos, &str)> = Vec::new();
    for call in timeline.calls().filter(|call| part.contains(&call.start)) {
        if let Some(step) = call.step {
            // A wait is a step when it ends.
            let at = if call.phase == Phase::Waiting { call.end } else { call.start };
            seen.push((at, step.number));
        }
    }
    seen.sort_unstable();
    let mut steps: Vec<&str> = Vec::new();
    for (_, step) in seen {
        // Steps 1 and 2, registering and waiting, occur all the time.
        if !steps.contains(&step) && step != "1" && step != "2" {
            steps.push(step);
        }
    }
    steps
}

#[test]
fn every_byte_belongs_to_a_call() {
    for timeline in all_recorded() {
        for (index, client) in timeline.session.clients.iter().enumerate() {
            let name = format!("{}, client {}", timeline.server.name(), client.name);
            let copied = |direction| -> u64 {
                let copies = timeline.calls().filter(|call| call.client == Some(index));
                let copies = copies.filter_map(|call| call.copied);
                copies.filter(|(way, _)| *way == direction).map(|(_, bytes)| bytes).sum()
            };
            let mut sent = 0;
            let mut received = 0;
            for action in &client.actions {
                match action.kind {
                    ActionKind::Send(bytes) => sent += bytes,
                    ActionKind::Receive(bytes) => received += bytes,
                    ActionKind::Connect | ActionKind::Disconnect => {}
                }
            }
            assert_eq!(copied(Direction::In), sent, "sent by {name}");
            assert_eq!(copied(Direction::Out), received, "received by {name}");
            for (action, it) in client.actions.iter().enumerate() {
                let has_call = timeline
                    .messages
                    .iter()
                    .any(|message| (message.client, message.action) == (index, action));
                // Some calls of a client receive the rest of a message.
                let needs_call = matches!(it.kind, ActionKind::Connect | ActionKind::Send(_));
                assert!(has_call || !needs_call, "{name}: no call of the server for {it:?}");
            }
        }
    }
}

#[test]
fn the_phases_of_a_call_are_consecutive() {
    for timeline in all_recorded() {
        for call in timeline.calls() {
            let phases = call.phases();
            assert_eq!(phases[0].1, call.start);
            assert_eq!(phases[phases.len() - 1].2, call.end, "{call:?}");
            assert!(phases.iter().all(|(_, from, to)| from <= to), "{call:?}");
        }
        for thread in &timeline.threads {
            let calls: Vec<_> = thread.calls.iter().filter(|call| !call.from_log).collect();
            for pair in calls.windows(2) {
                assert!(pair[0].end <= pair[1].start, "a thread is in two calls: {pair:?}");
            }
        }
    }
}
