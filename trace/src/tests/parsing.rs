//! The output of strace and the text of a session.

use super::recorded;
use crate::session::Session;
use crate::strace::{Event, Nanos, Record, arguments, parse};

const LINES: &str = r#"
# part 1 a line of the session, which strace did not write
100<server> 1700000000.000001000 accept4(3<socket:[7]>, {sa_family=AF_INET, sin_port=htons(40)}, [16], SOCK_CLOEXEC) = 4<socket:[8]> <0.000002000>
100<server> 1700000000.000010000 clone3({flags=CLONE_VM|CLONE_THREAD, stack=0x7f}, 88) = 101<server> <0.000003000>
101<a > name> 1700000000.000020000 recvfrom(4<socket:[8]>,  <unfinished ...>
100<server> 1700000000.000030000 epoll_wait(5<anon_inode:[eventpoll]>, 0x7ffe, 256, -1) = -1 EINTR (Interrupted system call) <0.000004000>
100<server> 1700000000.000035000 --- SIGIO {si_signo=SIGIO, si_code=SI_KERNEL} ---
100<server> 1700000000.000036000 rt_sigreturn({mask=[]}) = -1 EINTR (Interrupted system call) <0.000000500>
101<worker-1> 1700000000.000040000 <... recvfrom resumed>"x) = 1, \"y\"", 64, 0, NULL, NULL) = 10 <0.000020000>
101<worker-1> 1700000000.000050000 exit(0) = ?
101<worker-1> 1700000000.000051000 +++ exited with 0 +++
100<server> 1700000000.000060000 rt_sigsuspend([], 8) = ? ERESTARTNOHAND (To be restarted if no handler) <0.000001000>
100<server> 1700000000.000062000 poll([{fd=3<socket:[7]>, events=POLLIN}], 1, -1) = ? ERESTART_RESTARTBLOCK (Interrupted by signal) <0.000001000>
100<server> 1700000000.000064000 restart_syscall(<... resuming interrupted poll ...> <unfinished ...>
100<server> 1700000000.000066000 <... restart_syscall resumed>) = 1 <0.000002000>
100<server> 1700000000.000070000 read(4<socket:[8]>,  <unfinished ...>
100<server> 1700000000.000080000 <... read resumed>) = ?
100<server> 1700000000.000081000 +++ killed by SIGKILL +++
"#;

fn call<'a>(records: &'a [Record], name: &str) -> (&'a str, Option<&'a str>, Option<Nanos>) {
    let found = records.iter().find_map(|record| match &record.event {
        Event::Call { name: this, args, result, end } if this == name => {
            Some((args.as_str(), result.as_deref(), *end))
        }
        _ => None,
    });
    found.expect("the call is in the trace")
}

const SECOND: Nanos = 1_700_000_000 * 1_000_000_000;

#[test]
fn a_call_has_arguments_result_and_end() {
    let records = parse(LINES);
    let (args, result, end) = call(&records, "accept4");
    assert_eq!(arguments(args).len(), 4);
    assert_eq!(arguments(args)[1], "{sa_family=AF_INET, sin_port=htons(40)}");
    assert_eq!(result, Some("4<socket:[8]>"));
    assert_eq!(end, Some(SECOND + 3_000));
}

#[test]
fn the_two_halves_of_a_call_are_joined() {
    let records = parse(LINES);
    let (args, result, end) = call(&records, "recvfrom");
    assert_eq!(arguments(args), ["4<socket:[8]>", r#""x) = 1, \"y\"""#, "64", "0", "NULL", "NULL"]);
    assert_eq!(result, Some("10"));
    assert_eq!(end, Some(SECOND + 40_000));
}

#[test]
fn a_restarted_call_is_one_call() {
    let records = parse(LINES);
    let (args, result, end) = call(&records, "poll");
    assert_eq!((arguments(args).len(), result), (3, Some("1")));
    assert_eq!(end, Some(SECOND + 66_000));
    let line = "1 1700000000.000064000 ";
    let whole = format!(
        "{line}poll(0x1, 1, -1) = ? ERESTART_RESTARTBLOCK (Interrupted by signal) <0.000001000>\n\
         {line}restart_syscall(<... resuming interrupted poll ...>) = 0 <0.000002000>\n"
    );
    let records = parse(&whole);
    assert_eq!(records.len(), 1);
    assert_eq!(call(&records, "poll"), ("0x1, 1, -1", Some("0"), Some(SECOND + 66_000)));
}

#[test]
fn a_call_that_never_returns_has_no_end() {
    let records = parse(LINES);
    assert_eq!(call(&records, "read"), ("4<socket:[8]>,", Some("?"), None));
}

#[test]
fn signals_interruptions_and_exits_are_distinguished() {
    let records = parse(LINES);
    assert_eq!(call(&records, "epoll_wait").1, Some("-1 EINTR (Interrupted system call)"));
    let suspended = call(&records, "rt_sigsuspend").1.expect("it has a result");
    assert!(suspended.starts_with("? ERESTARTNOHAND"), "{suspended}");
    let signal = records.iter().find(|record| matches!(record.event, Event::Signal { .. }));
    let signal = signal.expect("there is a signal");
    assert_eq!((signal.tid, signal.at), (100, SECOND + 35_000));
    let ended: Vec<i32> = (records.iter())
        .filter(|record| record.event == Event::Exit)
        .map(|record| record.tid)
        .collect();
    assert_eq!(ended, [101, 100]);
}

#[test]
fn a_thread_name_may_contain_any_character() {
    let records = parse(LINES);
    assert_eq!((records[2].tid, records[2].at), (101, SECOND + 20_000));
}

#[test]
fn a_session_survives_writing_and_reading() {
    let session = recorded!("epoll-echo").session;
    assert_eq!(Session::from_text(&session.to_text()).expect("a session"), session);
    assert!(Session::from_text("# A 1 2 send").is_err());
}
