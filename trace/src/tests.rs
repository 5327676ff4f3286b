//! Recorded traces through the parser, to the phases and the figures; and one live.
//!
//! The records in `fixtures` are real; the lines from before the server listened are left out, but
//! for `socketpair`, and of the non-blocking server's calls in vain most.

use crate::play::{Play, What, moment};
use crate::repeat::{Item, items};
use crate::servers::{self, Kind};
use crate::story::{Call, Direction, Phase, Story, Thread};
use crate::strace::{Event, Nanos, Record, arguments, parse};
use crate::style::Arrow;
use crate::{comparison, figure, layout, record, text};

fn story(name: &str, record: &str) -> Story {
    let server = servers::find(name).expect("a server");
    Story::new(server, Play::read(record).expect("a play"), &parse(record))
}

macro_rules! recorded {
    ($name:literal) => {
        story($name, include_str!(concat!("fixtures/", $name, ".trace")))
    };
}

fn all() -> Vec<Story> {
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

impl Story {
    fn thread(&self, role: &str) -> &Thread {
        let thread = self.threads.iter().find(|thread| thread.role == role);
        thread.unwrap_or_else(|| panic!("no {role} among {:?}", self.roles()))
    }

    fn roles(&self) -> Vec<&str> {
        self.threads.iter().map(|thread| thread.role.as_str()).collect()
    }

    /// When A sent the message that broke the silence.
    fn comes(&self) -> Nanos {
        let sent = |deed: &&crate::play::Deed| matches!(deed.what, What::Send(_));
        self.play.clients[0].deeds.iter().find(sent).expect("A sends").from
    }

    /// The call that copied it, and its thread.
    fn copy(&self) -> (&Thread, &Call) {
        let comes = self.comes();
        let message = self.messages.iter().find(|message| {
            let deed = self.play.clients[message.client].deeds[message.deed];
            message.direction == Direction::In && deed.from == comes
        });
        let message = message.expect("somebody took it");
        let thread = &self.threads[message.thread];
        (thread, &thread.calls[message.call])
    }
}

impl Thread {
    /// What it was in at `time`.
    fn during(&self, time: Nanos) -> Option<&Call> {
        self.calls.iter().find(|call| call.start < time && time <= call.end)
    }

    fn waits(&self, time: Nanos) -> bool {
        let waiting = |&(phase, from, to): &(Phase, Nanos, Nanos)| {
            phase == Phase::Waiting && from < time && time <= to
        };
        self.during(time).is_some_and(|call| call.phases().iter().any(waiting))
    }
}

// The parser.

const LINES: &str = r#"
# act 1 a play's line, which is none of strace's
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
    found.expect("the call")
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
fn an_unfinished_call_is_put_together_with_its_end() {
    let records = parse(LINES);
    let (args, result, end) = call(&records, "recvfrom");
    assert_eq!(arguments(args), ["4<socket:[8]>", r#""x) = 1, \"y\"""#, "64", "0", "NULL", "NULL"]);
    assert_eq!(result, Some("10"));
    assert_eq!(end, Some(SECOND + 40_000));
}

#[test]
fn a_call_that_the_kernel_resumes_is_one() {
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
fn signals_interruptions_and_exits_are_told_apart() {
    let records = parse(LINES);
    assert_eq!(call(&records, "epoll_wait").1, Some("-1 EINTR (Interrupted system call)"));
    let suspended = call(&records, "rt_sigsuspend").1.expect("a result");
    assert!(suspended.starts_with("? ERESTARTNOHAND"), "{suspended}");
    let signal = records.iter().find(|record| matches!(record.event, Event::Signal { .. }));
    let signal = signal.expect("a signal");
    assert_eq!((signal.tid, signal.at), (100, SECOND + 35_000));
    let ended: Vec<i32> = (records.iter())
        .filter(|record| record.event == Event::Exit)
        .map(|record| record.tid)
        .collect();
    assert_eq!(ended, [101, 100]);
}

#[test]
fn a_thread_may_be_called_what_it_likes() {
    let records = parse(LINES);
    assert_eq!((records[2].tid, records[2].at), (101, SECOND + 20_000));
}

#[test]
fn a_play_is_read_as_it_was_written() {
    let play = recorded!("epoll-echo").play;
    assert_eq!(Play::read(&play.write()).expect("a play"), play);
    assert!(Play::read("# A 1 2 send").is_err());
}

// The phases, model by model.

#[test]
fn blocking_waits_in_the_read_that_copies() {
    for (name, role) in [("blocking-echo", "thread of A"), ("blocking-echo-fork", "child of A")] {
        let story = all().into_iter().find(|story| story.server.name == name).expect("recorded");
        let (thread, read) = story.copy();
        assert_eq!((thread.role.as_str(), read.name.as_str()), (role, "recvfrom"));
        assert!(read.start < story.comes());
        assert_eq!((read.waited, read.phase), (Some(story.comes()), Phase::Copying));
        assert!(story.thread("main").waits(story.comes()), "in accept");
        assert!(story.threads.iter().all(|thread| thread.waits(story.comes())));
    }
}

#[test]
fn a_blocking_write_waits_for_a_client_that_reads_late() {
    let story = recorded!("blocking-echo");
    let late = story.play.acts[3].at;
    let write = story
        .thread("thread of A")
        .calls
        .iter()
        .find(|call| call.start > late && call.name == "sendto" && call.waited.is_some());
    let write = write.expect("a write that waits");
    let read = story.play.clients[0].deeds.iter().map(moment).find(|&at| at > write.start);
    assert!(write.waited < read, "it can go on when the client reads");
}

#[test]
fn non_blocking_waits_in_no_call() {
    let story = recorded!("nonblocking-echo");
    assert_eq!(story.roles(), ["main"]);
    let main = story.thread("main");
    assert!(main.calls.iter().flat_map(Call::phases).all(|(phase, ..)| phase != Phase::Waiting));
    let (_, read) = story.copy();
    assert_eq!((read.phase, read.waited), (Phase::Copying, None));
    let silence = story.play.acts[1].at;
    let vain = main.calls.iter().filter(|call| (silence..story.comes()).contains(&call.start));
    let vain: Vec<_> = vain.collect();
    assert!(vain.len() > 30 && vain.iter().all(|call| call.vain && call.answer == "EAGAIN"));
    // And the figure shows them as a burst.
    let burst = items(&main.calls, silence, story.comes());
    assert!(burst.iter().any(|item| matches!(item, Item::Again { times, .. } if *times > 5)));
}

#[test]
fn multiplexing_waits_in_the_wait_and_not_in_the_read() {
    let stories = [recorded!("select-echo"), recorded!("poll-echo"), recorded!("epoll-echo")];
    for (story, wait) in stories.iter().zip(["pselect6", "poll", "epoll_wait"]) {
        let main = story.thread("main");
        let waiting = main.during(story.comes()).expect("a call");
        assert_eq!((waiting.name.as_str(), waiting.phase), (wait, Phase::Waiting));
        assert_eq!(waiting.answer, "= A");
        let (_, read) = story.copy();
        assert_eq!((read.phase, read.waited), (Phase::Copying, None));
        assert!(waiting.end <= read.start);
    }
}

#[test]
fn signal_driven_gets_the_signal_before_it_reads() {
    let story = recorded!("sigio-echo");
    let main = story.thread("main");
    let asleep = main.during(story.comes()).expect("a call");
    assert_eq!((asleep.title.as_str(), asleep.phase), ("rt_sigsuspend", Phase::Waiting));
    assert_eq!(asleep.answer, "until SIGIO");
    let signal = main.signals.iter().find(|signal| signal.at > story.comes()).expect("a signal");
    let (_, read) = story.copy();
    assert_eq!(signal.name, "SIGIO");
    assert!(asleep.end <= signal.at && signal.at < read.start);
    assert_eq!((read.phase, read.waited), (Phase::Copying, None));
}

#[test]
fn posix_aio_waits_in_a_helper_and_main_is_free() {
    let story = recorded!("aio-echo");
    let (helper, read) = story.copy();
    assert!(helper.role.starts_with("helper"), "{}", helper.role);
    assert_eq!((read.name.as_str(), read.waited), ("read", Some(story.comes())));
    let main = story.thread("main");
    assert!(main.calls.iter().all(|call| call.copied.is_none()), "it copies nothing");
    assert_eq!(main.during(story.comes()).expect("a call").name, "poll");
    // The helper tells it by a signal.
    let signal = main.signals.iter().find(|signal| signal.at > read.end).expect("a signal");
    let (thread, call) = signal.from.expect("a sender");
    assert_eq!(signal.name, "SIGUSR1");
    assert_eq!(story.threads[thread].calls[call].name, "rt_sigqueueinfo");
    assert_eq!(story.threads[thread].role, helper.role);
}

#[test]
fn a_thread_is_called_what_it_calls_itself() {
    let record = include_str!("fixtures/proactor-chat.trace");
    let story = story("proactor-chat", record);
    assert_eq!(story.roles()[..3], ["main", "worker", "helper 1"]);
    for helper in &story.threads[2..] {
        assert!(helper.role.starts_with("helper "), "{}", helper.role);
        // It has inherited the name of the thread that started it.
        assert!(record.contains(&format!("{}<worker> ", helper.tid)));
    }
    assert!(story.thread("worker").calls.iter().all(|call| call.copied.is_none()));
}

#[test]
fn io_uring_reads_by_no_call() {
    let story = recorded!("uring-echo");
    let main = story.thread("main");
    assert!(main.calls.iter().all(|call| call.told || call.copied.is_none()));
    let told = main.calls.iter().find(|call| call.told && call.start > story.comes());
    assert_eq!(told.expect("the log tells").title, "recv(A)");
    let (_, carrier) = story.copy();
    assert_eq!((carrier.name.as_str(), carrier.waited), ("io_uring_enter", Some(story.comes())));
    assert_eq!(carrier.phase, Phase::Copying);
}

#[test]
fn the_steps_of_the_patterns_go_from_thread_to_thread() {
    let reactor = recorded!("reactor-chat");
    assert_eq!(steps(&reactor), ["3", "4", "5", "6", "7"]);
    let (worker, read) = reactor.copy();
    assert!(worker.role.starts_with("worker"), "{}", worker.role);
    assert_eq!(read.step.map(|step| step.number), Some("4"));

    let proactor = recorded!("proactor-chat");
    assert_eq!(steps(&proactor), ["3", "4", "5", "6", "7"]);
    assert!(proactor.copy().0.role.starts_with("helper"));
    // Signal, handler, worker.
    let main = proactor.thread("main");
    let passes_on = main.calls.iter().position(|call| {
        call.start > proactor.comes() && call.step.is_some_and(|step| step.number == "4")
    });
    let wake = proactor.wakes.iter().find(|wake| Some(wake.by) == passes_on.map(|call| (0, call)));
    let (woken, call) = wake.expect("somebody waits for the handler").woken;
    let told = &proactor.threads[woken].calls[call];
    assert_eq!((proactor.threads[woken].role.as_str(), told.phase), ("worker", Phase::Waiting));
    assert_eq!(
        (told.title.as_str(), told.step.map(|step| step.number)),
        ("recvfrom(pair)", Some("5"))
    );

    let simulated = recorded!("proactor-chat-simulated");
    assert_eq!(steps(&simulated), ["3", "4", "5", "6"]);
    assert_eq!(simulated.copy().0.role, "main");
    let handled = simulated.threads.iter().filter(|thread| thread.role.starts_with("worker"));
    assert!(handled.flat_map(|thread| &thread.calls).all(|call| call.copied.is_none()));
}

/// The steps of the message that breaks the silence, each where it is first seen.
fn steps(story: &Story) -> Vec<&'static str> {
    let end = story.play.act_end(1);
    let calls = story.threads.iter().flat_map(|thread| &thread.calls);
    let mut seen: Vec<(Nanos, &str)> = calls
        .filter(|call| (story.comes()..end).contains(&call.start))
        // A wait is over, and so a step, when it ends.
        .filter_map(|call| {
            let at = if call.phase == Phase::Waiting { call.end } else { call.start };
            Some((at, call.step?.number))
        })
        .collect();
    seen.sort_unstable();
    let mut steps: Vec<&str> = Vec::new();
    for (_, step) in seen {
        // Registered again, and waiting again: that goes on all the time.
        if !steps.contains(&step) && step != "1" && step != "2" {
            steps.push(step);
        }
    }
    steps
}

#[test]
fn every_byte_has_its_call() {
    for story in all() {
        for (client, is) in story.play.clients.iter().enumerate() {
            let count = |direction| -> u64 {
                let calls = story.threads.iter().flat_map(|thread| &thread.calls);
                let copied = calls.filter(|call| call.client == Some(client));
                copied
                    .filter_map(|call| call.copied)
                    .filter(|(way, _)| *way == direction)
                    .map(|(_, n)| n)
                    .sum()
            };
            let (mut sent, mut received) = (0, 0);
            for deed in &is.deeds {
                match deed.what {
                    What::Send(bytes) => sent += bytes,
                    What::Receive(bytes) => received += bytes,
                    What::Connect | What::Leave => {}
                }
            }
            let name = story.server.name;
            assert_eq!(count(Direction::In), sent, "{name}, from client {}", is.name);
            assert_eq!(count(Direction::Out), received, "{name}, to client {}", is.name);
            for (index, deed) in is.deeds.iter().enumerate() {
                let shown = story
                    .messages
                    .iter()
                    .any(|message| (message.client, message.deed) == (client, index));
                let first = deed.what != What::Leave && !matches!(deed.what, What::Receive(_));
                assert!(shown || !first, "{name}: nobody took what {} did: {deed:?}", is.name);
            }
        }
    }
}

#[test]
fn phases_follow_each_other_and_fill_the_call() {
    for story in all() {
        for call in story.threads.iter().flat_map(|thread| &thread.calls) {
            let phases = call.phases();
            assert_eq!(phases[0].1, call.start);
            assert_eq!(phases[phases.len() - 1].2, call.end, "{call:?}");
            assert!(phases.iter().all(|(_, from, to)| from <= to), "{call:?}");
        }
        for thread in &story.threads {
            let calls: Vec<_> = thread.calls.iter().filter(|call| !call.told).collect();
            for pair in calls.windows(2) {
                assert!(pair[0].end <= pair[1].start, "one call at a time: {pair:?}");
            }
        }
    }
}

// The figures.

#[test]
fn an_axis_keeps_the_order_and_gives_what_is_wanted() {
    let want = |from, to, width, rank| layout::Want { from, to, width, rank };
    let wants = [want(0, 10, 60.0, 1), want(10, 12, 40.0, 1), want(10, 60_000_000, 90.0, 1)];
    let axis = layout::Axis::new(vec![60_000_000, 0, 10, 12, 12], &wants, 100.0, 400.0);
    let places = [0, 10, 12, 60_000_000].map(|time| axis.place(time));
    assert!(places.is_sorted());
    assert!((places[0] - 100.0).abs() < 0.01 && (places[3] - 500.0).abs() < 0.01);
    assert!(places[1] - places[0] >= 60.0 && places[2] - places[1] >= 40.0);
    // The long stretch is the one that is cut.
    assert_eq!(axis.cuts().count(), 1);
}

#[test]
fn where_there_is_no_room_the_least_important_goes() {
    let want = |from, rank| layout::Want { from, to: from + 1, width: 60.0, rank };
    let wants = [want(0, 1), want(1, 5), want(2, 1)];
    let axis = layout::Axis::new(vec![0, 1, 2, 3], &wants, 0.0, 130.0);
    assert!(axis.place(1) >= 59.0 && axis.place(3) - axis.place(2) >= 59.0);
}

#[test]
fn an_arrow_crosses_what_it_goes_through() {
    let arrow = Arrow { class: "message", from: (0.0, 0.0), to: (100.0, 50.0) };
    assert!(arrow.crosses((40.0, 15.0), (60.0, 30.0)));
    assert!(arrow.crosses((0.0, 0.0), (100.0, 50.0)));
    assert!(!arrow.crosses((40.0, 35.0), (60.0, 50.0)), "it goes above");
    assert!(!arrow.crosses((104.0, 40.0), (120.0, 60.0)), "it ends before");
    let upright = Arrow { class: "wake", from: (10.0, 50.0), to: (10.0, 0.0) };
    assert!(upright.crosses((5.0, 10.0), (15.0, 20.0)));
    assert!(!upright.crosses((12.0, 10.0), (15.0, 20.0)));
}

/// A label in a figure: the line it stands on, from where to where, and what it says.
type Label<'a> = (f64, f64, f64, &'a str);

fn labels(figure: &str) -> Vec<Label<'_>> {
    let texts = figure.split("<text").skip(1).filter_map(|rest| rest.split_once("</text>"));
    texts
        .map(|(text, _)| {
            let (tag, content) = text.split_once('>').expect("a tag");
            let attribute = |name: &str| {
                let start = tag.split_once(&format!(" {name}=\""))?.1;
                start.split('"').next()
            };
            let number = |name| attribute(name).and_then(|number| number.parse::<f64>().ok());
            let size = match attribute("class").unwrap_or_default() {
                "title" => 18.0 * 1.1,
                "idea" => 13.0,
                "head" => 12.5 * 1.1,
                _ => 11.0,
            };
            let (x, content) = (number("x").expect("x"), content.trim());
            let width = layout::text_width(content, size);
            let from = match attribute("text-anchor") {
                Some("middle") => x - width / 2.0,
                Some("end") => x - width,
                _ => x,
            };
            (number("y").expect("y"), from, from + width, content)
        })
        .collect()
}

/// The rectangles of the marks of the cuts: left, top, right, bottom.
fn cuts(figure: &str) -> Vec<[f64; 4]> {
    let paths =
        figure.split("class=\"cut\" d=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let cut = |path: &str| {
        let numbers = path.split(|c: char| !c.is_ascii_digit() && c != '.');
        let numbers: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
        let range = |from: usize| {
            let side = || numbers.iter().skip(from).step_by(2).copied();
            (side().fold(f64::INFINITY, f64::min), side().fold(0.0, f64::max))
        };
        let ((left, right), (top, bottom)) = (range(0), range(1));
        [left, top, right, bottom]
    };
    paths.map(cut).collect()
}

#[test]
fn no_label_overlaps_another_or_a_cut_or_leaves_the_page() {
    let stories = all();
    let mut figures: Vec<(&str, String)> =
        stories.iter().map(|story| (story.server.name, figure::draw(story).to_string())).collect();
    figures.push(("comparison", comparison::draw(&stories).to_string()));
    for (name, figure) in &figures {
        let labels = labels(figure);
        assert!(labels.len() > 20, "{name}");
        for (_, from, to, label) in &labels {
            assert!(
                *from >= 0.0 && *to <= crate::style::WIDTH,
                "{name}: {label:?} leaves the page"
            );
        }
        for [left, top, right, bottom] in cuts(figure) {
            let over = |&&(y, from, to, _): &&Label| {
                (top..bottom).contains(&y) && from < right && to > left
            };
            let over = labels.iter().find(over);
            assert!(over.is_none(), "{name}: {over:?} overlaps a cut at {left}");
        }
        for (index, &(y, from, to, label)) in labels.iter().enumerate() {
            for &(other_y, other_from, other_to, other) in &labels[..index] {
                let beside = from >= other_to - 0.5 || other_from >= to - 0.5;
                let apart = beside || (y - other_y).abs() >= 10.0;
                assert!(apart, "{name}: {label:?} and {other:?} overlap");
            }
        }
    }
}

#[test]
fn the_text_tells_wait_read_and_write_in_their_order() {
    let told = text::tell(&recorded!("epoll-echo"));
    let (_, silence) = told.split_once("2. Nobody speaks").expect("the act");
    let at = |what: &str| silence.find(what).unwrap_or_else(|| panic!("no {what:?} in {silence}"));
    let order =
        ["client A", "epoll_wait", "recvfrom(A) = 6", "sendto(A) = 6", "gets 6 bytes"].map(at);
    assert!(order.is_sorted(), "{silence}");
}

// Live.

#[test]
fn epoll_echo_waits_reads_and_writes() {
    if let Some(hindrance) = record::hindrance() {
        eprintln!("SKIPPED, nothing was traced: {hindrance}");
        return;
    }
    let server = servers::find("epoll-echo").expect("a server");
    assert_eq!(server.kind, Kind::Echo);
    let binary = record::build(server).expect("it builds");
    let path = std::env::temp_dir().join(format!("lab-trace-{}.trace", std::process::id()));
    let record = record::record(server, &binary, &path);
    std::fs::remove_file(&path).expect("the record is there");
    let story = story(server.name, &record.expect("a record"));

    let main = story.thread("main");
    let wait = main.during(story.comes()).expect("a call");
    let (_, read) = story.copy();
    let write = main.calls.iter().find(|call| call.start >= read.end && call.name == "sendto");
    let write = write.expect("a write");
    assert_eq!((wait.name.as_str(), wait.phase), ("epoll_wait", Phase::Waiting));
    assert_eq!((read.copied, read.phase), (Some((Direction::In, 6)), Phase::Copying));
    assert_eq!((write.copied, write.phase), (Some((Direction::Out, 6)), Phase::Copying));
    assert!(wait.start < story.comes() && wait.end <= read.start && read.end <= write.start);
    assert!(figure::draw(&story).to_string().contains("epoll_wait"));
}
