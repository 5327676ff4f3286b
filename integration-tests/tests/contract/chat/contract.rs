//! What every server promises, put to a chat.

use anyhow::{Context, Result, ensure};
use integration_tests::guest::{crowd, welcome};
use integration_tests::{
    Client, Flood, Guest, PATIENCE, Running, Server, Talker, gathering, patience, until,
};
use regex::Regex;
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};

use super::order::{TALK, Talk, all_at_once_in};
use super::with_guests;
use crate::accept::{LIMIT, costs_little};
use crate::case::{Case, few_descriptors};
use crate::idle::sleeps;
use crate::leaks::rounds;
use crate::shutdown::{ends, no_client};

pub const ISOLATION: &[Case] = &[
    Case::new("gone_before_accepted", gone_before_accepted),
    Case::new("resets_one_after_another", resets_one_after_another),
    Case::new("garbage", garbage),
    Case::new("byte_at_a_time", byte_at_a_time),
    Case::new("flooding_peer", flooding_peer),
];

pub const ACCEPT: &[Case] = &[
    Case::new("starved", |server| starve(server, |_| Ok(()))),
    Case::new("starved_without_connections", starved_without_connections),
];

pub const FAIRNESS: &[Case] = &[Case::new("beside_two_floods", beside_two_floods).alone()];

pub const LIMITS: &[Case] = &[Case::new("refuses_beyond", refuses_beyond)
    .applies(|server| server.most_clients.is_some())
    .lacks(few_descriptors)
    .alone()];

pub const INTERRUPTION: &[Case] = &[
    Case::new("idle", interrupted_idle),
    Case::new("in_mid_talk", in_mid_talk),
    Case::new("last_lines", last_lines),
    Case::new("starved", |server| {
        starve(server, |running| (0..3).try_for_each(|_| running.paused(|| Ok(()))))
    }),
];

pub const SHUTDOWN: &[Case] = &[
    Case::new("sigint_no_client", |server| no_client(server, Signal::INT)).alone(),
    Case::new("sigterm_no_client", |server| no_client(server, Signal::TERM)).alone(),
    Case::new("sigint_idle_clients", |server| idle_clients(server, Signal::INT)).alone(),
    Case::new("sigterm_idle_clients", |server| idle_clients(server, Signal::TERM)).alone(),
    Case::new("sigint_stalled_client", |server| stalled_client(server, Signal::INT)).alone(),
    Case::new("sigterm_stalled_client", |server| stalled_client(server, Signal::TERM)).alone(),
    Case::new("sigint_flooding_clients", |server| flooding_clients(server, Signal::INT)).alone(),
    Case::new("sigterm_flooding_clients", |server| flooding_clients(server, Signal::TERM)).alone(),
];

pub const LEAKS: &[Case] = &[
    Case::new("rounds_of_200", |server| rounds(server, 200, 3, come_and_go)),
    Case::new("rounds_of_500", |server| rounds(server, 500, 1, come_and_go))
        .lacks(few_descriptors)
        .alone(),
];

pub const IDLE: &[Case] = &[
    Case::new("no_processor_time", no_processor_time).lacks(few_descriptors),
    Case::new("no_buffer", no_buffer)
        .applies(|server| server.idle_memory.is_some())
        .lacks(few_descriptors)
        .alone(),
];

pub const LOG: &[Case] =
    &[Case::new("who_came_and_went", who_came_and_went), Case::new("two_phases", two_phases)];

fn gone_before_accepted(server: &Server) -> Result<()> {
    with_guests(server, |running, [a]| {
        running.paused(|| {
            for _ in 0..10 {
                Client::connect(running)?.reset()?;
                let client = Client::connect(running)?;
                client.send(b"nobody will read this")?;
                client.reset()?;
                Client::connect(running)?.half_close()?;
            }
            Ok(())
        })?;
        // They are accepted in the order in which they came: before this one.
        let b = Guest::arrive(running)?;
        until("those being gone who did not wait", PATIENCE, || {
            b.say("/who")?;
            let mut line = b.next()?;
            while !line.starts_with("* here: ") {
                line = b.next()?;
            }
            Ok((line == format!("* here: guest1, {}", b.name())).then_some(()))
        })?;
        a.say("still here?")?;
        b.hears("guest1: still here?")
    })
}

fn resets_one_after_another(server: &Server) -> Result<()> {
    with_guests(server, |running, [a]| {
        for _ in 0..20 {
            let guest = Guest::arrive(running)?;
            let name = guest.name().to_owned();
            a.hears(&format!("* {name} joined"))?;
            guest.say("hello")?;
            a.hears(&format!("{name}: hello"))?;
            guest.say("/who")?;
            guest.send(b"and half a line")?;
            guest.reset()?;
            a.hears(&format!("* {name} left"))?;
        }
        a.sees(&["guest1"])
    })
}

fn garbage(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b]| {
        for seed in 0..100 {
            let mut bytes = vec![0; 3000];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            a.send(&bytes)?;
        }
        a.send(b"\n")?;
        a.client().send_urgent(b'!')?;
        a.say("done")?;
        // What of it was text by chance has been heard.
        while !b.next()?.ends_with("done") {}
        b.sees(&["guest1", "guest2"])
    })
}

fn byte_at_a_time(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b, c]| {
        for number in 0..30 {
            let text = format!("line number {number}, and some more of it: it takes its time");
            text.bytes().try_for_each(|byte| a.send(&[byte]))?;
            b.say("meanwhile")?;
            c.hears("guest2: meanwhile")?;
            a.hears("guest2: meanwhile")?;
            a.send(b"\n")?;
            b.hears(&format!("guest1: {text}"))?;
            c.hears(&format!("guest1: {text}"))?;
        }
        Ok(())
    })
}

fn flooding_peer(server: &Server) -> Result<()> {
    with_guests(server, |running, [a, b]| {
        // Nobody else hears of these: so nobody can be too slow for them.
        for bytes in [&b"no end "[..], b"\n", b"\x1b\x07\r\n"] {
            let flood = Flood::start_with(running, bytes)?;
            let joined = a.next()?;
            b.hears(&joined)?;
            for number in 0..50 {
                a.say(&format!("number {number}"))?;
                b.hears(&format!("guest1: number {number}"))
                    .with_context(|| format!("beside one who says {bytes:?} all the time"))?;
            }
            flood.stop().context("the flooding peer lost its connection")?;
            let left = joined.replace("joined", "left");
            for guest in [&a, &b] {
                guest.hears(&left)?;
            }
        }
        Ok(())
    })
}

/// More clients than the server has descriptors for: the others come in as those leave.
fn starve(server: &Server, meanwhile: impl FnOnce(&Running) -> Result<()>) -> Result<()> {
    const CLIENTS: usize = 200;
    server.launch().descriptors(LIMIT).serve(|running| {
        Guest::arrive(running)?.leave()?;
        let fits = running.free_descriptors(LIMIT)?.len() / server.descriptors_per_client.max(1);
        let mut waiting: Vec<_> =
            (0..CLIENTS).map(|_| Client::connect(running)).collect::<Result<_>>()?;
        let mut inside = Vec::new();
        come_in(&mut waiting, &mut inside, fits).with_context(|| format!("{fits} fit"))?;
        meanwhile(running)?;
        costs_little(running).context("with clients waiting")?;
        let names: Vec<_> = inside.iter().map(Guest::name).collect();
        inside[0].say("still here?")?;
        for guest in &inside[1..] {
            let heard = format!("{}: still here?", names[0]);
            while guest.next().context("inside, with clients waiting")? != heard {}
        }
        if !waiting.is_empty() {
            inside.pop();
            come_in(&mut waiting, &mut inside, 1).context("when one had left")?;
        }
        while !waiting.is_empty() {
            let gone = inside.len();
            inside.clear();
            let next = gone.min(fits).min(waiting.len());
            come_in(&mut waiting, &mut inside, next)
                .with_context(|| format!("when {gone} had left"))?;
        }
        Ok(())
    })
}

/// Waits until so many more are welcomed.
fn come_in(waiting: &mut Vec<Client>, inside: &mut Vec<Guest>, count: usize) -> Result<()> {
    let goal = inside.len() + count;
    let what = format!("a welcome for {count} more of {} who wait", waiting.len());
    until(&what, PATIENCE, || {
        for client in std::mem::take(waiting) {
            if client.has_answer()? {
                inside.push(Guest::over(client)?);
            } else {
                waiting.push(client);
            }
        }
        Ok((inside.len() >= goal).then_some(()))
    })
}

/// It starts with just the descriptors that it needs itself, as when the system's own table is full:
/// nobody's leaving will tell it that there is room.
fn starved_without_connections(server: &Server) -> Result<()> {
    let mut lowest_free = None;
    server.launch().serve(|running| {
        let guest = Guest::arrive(running)?;
        let with_a_guest = running.figures()?.descriptors;
        guest.leave()?;
        until("a guest's descriptor being closed", PATIENCE, || {
            Ok((running.figures()?.descriptors < with_a_guest).then_some(()))
        })?;
        lowest_free = running.free_descriptors(LIMIT)?.first().copied();
        Ok(())
    })?;
    let limit = lowest_free.context("none is free")?;
    server.launch().soft_descriptors(limit).serve(|running| {
        let client = Client::connect(running)?;
        costs_little(running).context("with nobody here")?;
        ensure!(!client.has_answer()?, "it serves one for whom there is no descriptor");
        running.limit_descriptors(Some(LIMIT))?;
        welcome(&client).context("when there was room again")?;
        Ok(())
    })
}

/// Work is counted in bytes that the floods were rid of while the third waited for one answer: the
/// same on a slow machine and on a fast one. A server with a bound reads a buffer or two of each
/// before it is the next one's turn; one without reads as long as more keeps coming.
const WORK: u64 = 4 << 20;
/// What each flood has to be rid of meanwhile: it is one.
const FLOOD: u64 = 4 << 20;

/// Of what they say nobody else hears anything, so that nobody can be too slow for it.
fn beside_two_floods(server: &Server) -> Result<()> {
    with_guests(server, |running, [third]| {
        let floods =
            [Flood::start_with(running, b"no end ")?, Flood::start_with(running, b"\n\r\n")?];
        third.hears("* guest2 joined")?;
        third.hears("* guest3 joined")?;
        let taken = || floods.iter().map(Flood::sent).sum::<u64>();
        let goals = floods.each_ref().map(|flood| flood.sent() + FLOOD);
        let flooded = || floods.iter().zip(goals).all(|(flood, goal)| flood.sent() >= goal);
        let (mut count, mut work) = (0, 0);
        let start = Instant::now();
        while count < 50 || !flooded() {
            ensure!(start.elapsed() < 2 * PATIENCE, "a flooding peer is hardly served");
            thread::sleep(Duration::from_millis(5));
            let before = taken();
            third.sees(&["guest1", "guest2", "guest3"])?;
            work += taken() - before;
            count += 1;
        }
        let average = work / count;
        ensure!(average < WORK, "for each answer, two floods were rid of {average} bytes before");
        floods.into_iter().try_for_each(Flood::stop)
    })
}

/// Guests past those that the server can hold see a close, the others stay; and one who leaves
/// makes room for another.
fn refuses_beyond(server: &Server) -> Result<()> {
    const SURPLUS: usize = 10;
    let most = server.most_clients.context("it has no limit")?;
    server.launch().serve(|running| {
        let mut guests = crowd(running, most)?;
        for _ in 0..SURPLUS {
            let surplus = Client::connect(running)?;
            ensure!(surplus.line()?.is_none(), "with {most} here one more was let in");
        }
        ensure!(running.log()?.contains("refused"), "it refused guests and did not log it");

        let last = guests.pop().context("nobody is here")?;
        last.say("/who")?;
        last.hears_something_like("* here: guest1, guest2, ")?;
        drop(last);
        // That it left may not have been noticed yet.
        until("a new guest being welcomed after one had left", patience(), || {
            Ok(Client::connect(running)?.line()?.map(drop))
        })
    })
}

fn interrupted_idle(server: &Server) -> Result<()> {
    with_guests(server, |running, [a, b]| {
        for _ in 0..5 {
            running.paused(|| Ok(()))?;
            a.say("after")?;
            b.hears("guest1: after")?;
            running.paused(|| b.say("meanwhile"))?;
            a.hears("guest2: meanwhile")?;
        }
        drop(a);
        running.paused(|| Ok(()))?;
        b.hears("* guest1 left")?;
        b.sees(&["guest2"])
    })
}

fn in_mid_talk(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let talk = Talk { talkers: 12, lines: 150, ..TALK };
        all_at_once_in(running, &talk, |running, _| running.paused(|| Ok(())))
    })
}

/// A guest who has sent its FIN, and reads late, is being written to while the server is stopped.
///
/// Where it waits for room differs: from the FIN on, `io_uring` has a thread of the kernel's wait,
/// and a stop interrupts that.
fn last_lines(server: &Server) -> Result<()> {
    const LINES: usize = 100;
    with_guests(server, |running, [a]| {
        let late = Guest::over(Client::connect_narrow(running)?)?;
        a.hears("* guest2 joined")?;
        (0..LINES).try_for_each(|number| a.say(&format!("{number:1000}")))?;
        a.sees(&["guest1", "guest2"])?;
        late.half_close()?;
        a.hears("* guest2 left")?;
        let asleep = || Ok(running.is_asleep()?.then_some(()));
        until("the server waiting for room", patience(), asleep)?;
        running.paused(|| Ok(()))?;
        (0..LINES).try_for_each(|number| late.hears(&format!("guest1: {number:1000}")))?;
        late.hears_the_end()
    })
}

fn idle_clients(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| {
        let guests = crowd(running, 100)?;
        ends(running, signal)?;
        guests.into_iter().try_for_each(|guest| {
            // Some were not told yet who joined, and need not be; they may hear an RST.
            while let Ok(Some(line)) = guest.client().line() {
                ensure!(line.ends_with(" joined"), "at the end one heard {line:?}");
            }
            Ok(())
        })
    })
}

fn stalled_client(server: &Server, signal: Signal) -> Result<()> {
    const LINES: usize = 200;
    server.launch().serve(|running| {
        let mut here = vec![Talker::arrive(running)?, Talker::arrive(running)?];
        let _stalled = Guest::over(Client::connect_narrow(running)?)?;
        for number in 0..LINES {
            here[0].say(&format!("{number:1000}"));
        }
        gathering::run_until(&mut here, "one hearing another", |here| {
            here[1].heard().len() > LINES
        })?;
        ends(running, signal)
    })
}

/// They hear each other, as fast as they can.
fn flooding_clients(server: &Server, signal: Signal) -> Result<()> {
    server.launch().serve(|running| {
        let line = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<_>>();
        let _floods = [
            Flood::start_with(running, &line)?,
            Flood::start_with(running, &line)?,
            Flood::start_with(running, b"/who\n")?,
        ];
        ends(running, signal)
    })
}

/// So many guests come, each says something, and they leave in three ways.
fn come_and_go(_: &Server, running: &Running, count: usize) -> Result<()> {
    let guests = crowd(running, count)?;
    for (number, guest) in guests.into_iter().enumerate() {
        guest.say("hello")?;
        guest.send(b"and half a line")?;
        match number % 3 {
            0 => guest.reset()?,
            1 => guest.leave()?,
            _ => {}
        }
    }
    Ok(())
}

fn no_processor_time(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let count = server.idle_clients;
        let _idle = crowd(running, count)?;
        sleeps(running).with_context(|| format!("with {count} idle guests"))
    })
}

fn no_buffer(server: &Server) -> Result<()> {
    let count = server.idle_clients;
    let allowed = server.idle_memory.context("it has no bound")? * count as u64;
    server.launch().serve(|running| {
        // What serving takes at all, it has taken.
        crowd(running, 10)?;
        let before = running.figures()?.memory;
        let _idle = crowd(running, count)?;
        // Not all have been told yet who came after them.
        let mut grown = 0;
        until("idle guests taking less", PATIENCE, || {
            grown = running.figures()?.memory.saturating_sub(before);
            Ok((grown < allowed).then_some(()))
        })
        .with_context(|| format!("{count} idle guests take {grown} bytes of memory"))
    })
}

/// Waits until a line of the log matches.
fn shows(running: &Running, pattern: &str) -> Result<()> {
    let line = Regex::new(pattern)?;
    until(&format!("a line like {pattern:?} in the log"), PATIENCE, || {
        Ok(running.log()?.lines().any(|text| line.is_match(text)).then_some(()))
    })
}

fn who_came_and_went(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let leave: [fn(Guest) -> Result<()>; 3] =
            [Guest::leave, Guest::reset, |guest| guest.say("/quit")];
        for leave in leave {
            let guest = Guest::arrive(running)?;
            let peer = regex::escape(&guest.client().address()?.to_string());
            shows(running, &format!("INFO.* {peer} came$"))?;
            leave(guest)?;
            shows(running, &format!("INFO.* {peer} left"))?;
        }
        Ok(())
    })
}

/// `hello` and its end are six bytes, and with who says it fourteen.
fn two_phases(server: &Server) -> Result<()> {
    server.launch().log("trace").serve(|running| {
        let (a, b) = (Guest::arrive(running)?, Guest::arrive(running)?);
        a.say("hello")?;
        b.hears("guest1: hello")?;
        shows(running, "TRACE.*wait: ")?;
        shows(running, r"TRACE.*copy: (aio_)?(read|recv)\(.* 6( |$)")?;
        shows(running, r"TRACE.*copy: (aio_)?(write|send)\(.* 14( |$)")
    })
}
