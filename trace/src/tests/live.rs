//! A trace of a running server.

use crate::call::Phase;
use crate::syscalls::Direction;
use crate::{figure, record, servers};

#[test]
fn epoll_echo_waits_reads_and_writes() {
    if let Err(error) = record::check_strace() {
        eprintln!("SKIPPED, nothing was traced: {error:#}");
        return;
    }
    let server = servers::find("epoll-echo").expect("it is in the catalog");
    let binary = record::build(&server).expect("it builds");
    let path = std::env::temp_dir().join(format!("trace-test-{}.trace", std::process::id()));
    let recording = record::record(&server, &binary, &path);
    std::fs::remove_file(&path).expect("the recording was written");
    let timeline = super::timeline(server.name(), &recording.expect("it can be recorded"));

    let main = timeline.thread("main");
    let arrival = timeline.arrival();
    let wait = main.call_at(arrival).expect("main is in a call");
    let (_, read) = timeline.copy();
    let write = main.calls.iter().find(|call| call.start >= read.end && call.name == "sendto");
    let write = write.expect("main writes");
    assert_eq!((wait.name.as_str(), wait.phase), ("epoll_wait", Phase::Waiting));
    assert_eq!((read.copied, read.phase), (Some((Direction::In, 6)), Phase::Copying));
    assert_eq!((write.copied, write.phase), (Some((Direction::Out, 6)), Phase::Copying));
    assert!(wait.start < arrival && wait.end <= read.start && read.end <= write.start);
    assert!(figure::draw(&timeline).to_string().contains("epoll_wait"));
}
