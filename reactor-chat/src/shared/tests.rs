use common::chat::MAX_LINE;

use super::*;

/// Two loops with a client each: 0 in loop 0, and 1 in loop 1. All output has been written.
fn two_loops() -> SharedRoom<()> {
    let shared = SharedRoom::new(Room::new(None), 2).expect("eventfd");
    shared.with(|chat| {
        chat.join(());
        chat.join(());
    });
    for number in 0..2 {
        write_all(&shared, number);
    }
    shared
}

/// Takes the mail of a loop, and the output of its client. Returns the clients that had output.
fn write_all(shared: &SharedRoom<()>, number: usize) -> Vec<Id> {
    let mail = shared.with(|chat| chat.take_mail(number, false, false));
    for &id in &mail.write {
        let mut output = Output::default();
        shared.with(|chat| chat.take_output(id, 0, &mut output));
        let written = output.len();
        assert_eq!(
            shared.with(|chat| chat.take_output(id, written, &mut Output::default())),
            WriterStep::Wait
        );
    }
    shared.with(|chat| chat.has_written(number));
    mail.write
}

fn say(shared: &SharedRoom<()>, number: usize, id: Id, length: usize) {
    let mut input = Input::Bytes([vec![b'x'; length], vec![b'\n']].concat());
    let computation = shared.with(|chat| chat.process(number, id, &mut input));
    assert_eq!(computation, None);
}

/// How often a loop has been notified.
fn notifications(shared: &SharedRoom<()>, number: usize) -> u64 {
    shared.notifiers[number].read().unwrap_or(0)
}

#[test]
fn a_loop_is_notified_once_until_it_takes_its_mail() {
    let shared = two_loops();
    notifications(&shared, 1);
    for _ in 0..3 {
        say(&shared, 0, Id(0), 1);
    }
    assert_eq!(notifications(&shared, 1), 1);
    assert_eq!(write_all(&shared, 1), [Id(1)], "the client is listed once for three lines");
    say(&shared, 0, Id(0), 1);
    assert_eq!(notifications(&shared, 1), 1);
}

#[test]
fn a_new_client_is_in_the_mailbox_together_with_its_output() {
    let shared = SharedRoom::new(Room::new(None), 2).expect("eventfd");
    shared.with(|chat| chat.join(()));
    let mail = shared.with(|chat| chat.take_mail(0, false, false));
    assert_eq!(mail.connections, [(Id(0), ())]);
    assert_eq!(mail.write, [Id(0)], "the greeting");
    let mail = shared.with(|chat| chat.take_mail(1, false, false));
    assert!(mail.connections.is_empty());
}

#[test]
fn a_used_up_budget_waits_until_all_loops_have_written() {
    let shared = two_loops();
    let next = Input::Bytes(vec![b'x'; MAX_LINE]);
    let may_process = |number| shared.with(|chat| chat.may_process(number, &next));
    while may_process(0) {
        say(&shared, 0, Id(0), MAX_LINE - 1);
    }
    assert!(may_process(1), "the other loop has a budget of its own");
    shared.with(|chat| chat.take_mail(0, false, true)); // loop 0 waits
    notifications(&shared, 0);
    assert_eq!(write_all(&shared, 1), [Id(1)]);
    assert_eq!(notifications(&shared, 0), 1);
    assert!(may_process(0));
}
