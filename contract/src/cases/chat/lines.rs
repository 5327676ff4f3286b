//! What every server promises, put to a chat.

use anyhow::{Context, Result, ensure};

use crate::chat_client::{join_many, read_greeting};
use crate::{
    ChatClient, ChatSession, Client, Flood, Server, TIMEOUT, Target, chat_session, timeout,
    wait_until,
};
use regex::Regex;
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};

use super::order::{TALK, Talk, all_at_once_in};
use super::with_guests;
use crate::case::{Case, too_few_descriptors};
use crate::cases::accept::{LIMIT, expect_low_cpu};
use crate::cases::idle::expect_no_wakeups;
use crate::cases::leaks::rounds;
use crate::cases::shutdown::{ends, no_client};

pub const ISOLATION: &[Case] = &[
    Case::new("gone_before_accepted", gone_before_accepted),
    Case::new("resets_one_after_another", resets_one_after_another),
    Case::new("garbage", garbage),
    Case::new("byte_at_a_time", byte_at_a_time),
    Case::new("flooding_peer", flooding_peer),
];

pub const ACCEPT: &[Case] = &[
    Case::new("out_of_descriptors", |target| run_out_of_descriptors(target, |_| Ok(()))),
    Case::new("out_of_descriptors_without_connections", out_of_descriptors_without_connections),
];

pub const FAIRNESS: &[Case] = &[Case::new("beside_two_floods", beside_two_floods).exclusive()];

pub const LIMITS: &[Case] = &[Case::new("refuses_beyond", refuses_beyond)
    .applies(|target| target.properties.max_clients.is_some())
    .unavailable(too_few_descriptors)
    .exclusive()];

pub const INTERRUPTION: &[Case] = &[
    Case::new("idle", interrupted_idle),
    Case::new("in_mid_talk", in_mid_talk),
    Case::new("last_lines", last_lines),
    Case::new("out_of_descriptors", |target| {
        run_out_of_descriptors(target, |server| {
            (0..3).try_for_each(|_| server.while_stopped(|| Ok(())))
        })
    }),
];

pub const SHUTDOWN: &[Case] = &[
    Case::new("sigint_no_client", |target| no_client(target, Signal::INT)).exclusive(),
    Case::new("sigterm_no_client", |target| no_client(target, Signal::TERM)).exclusive(),
    Case::new("sigint_idle_clients", |target| idle_clients(target, Signal::INT)).exclusive(),
    Case::new("sigterm_idle_clients", |target| idle_clients(target, Signal::TERM)).exclusive(),
    Case::new("sigint_stalled_client", |target| stalled_client(target, Signal::INT)).exclusive(),
    Case::new("sigterm_stalled_client", |target| stalled_client(target, Signal::TERM)).exclusive(),
    Case::new("sigint_flooding_clients", |target| flooding_clients(target, Signal::INT))
        .exclusive(),
    Case::new("sigterm_flooding_clients", |target| flooding_clients(target, Signal::TERM))
        .exclusive(),
];

pub const LEAKS: &[Case] = &[
    Case::new("rounds_of_200", |target| rounds(target, 200, 3, come_and_go)),
    Case::new("rounds_of_500", |target| rounds(target, 500, 1, come_and_go))
        .unavailable(too_few_descriptors)
        .exclusive(),
];

pub const IDLE: &[Case] = &[
    Case::new("no_processor_time", no_processor_time).unavailable(too_few_descriptors),
    Case::new("no_buffer", no_buffer)
        .applies(|target| target.properties.idle_memory.is_some())
        .unavailable(too_few_descriptors)
        .exclusive(),
];

pub const LOG: &[Case] = &[
    Case::new("connected_and_disconnected", connected_and_disconnected),
    Case::new("two_phases", two_phases),
];

fn gone_before_accepted(target: &Target) -> Result<()> {
    with_guests(target, |server, [a]| {
        server.while_stopped(|| {
            for _ in 0..10 {
                Client::connect(server)?.reset()?;
                let client = Client::connect(server)?;
                client.send(b"nobody will read this")?;
                client.reset()?;
                Client::connect(server)?.half_close()?;
            }
            Ok(())
        })?;
        // They are accepted in the order in which they came: before this one.
        let b = ChatClient::join(server)?;
        wait_until("those being gone who did not wait", TIMEOUT, || {
            b.send_line("/who")?;
            let mut line = b.next()?;
            while !line.starts_with("* here: ") {
                line = b.next()?;
            }
            Ok((line == format!("* here: guest1, {}", b.name())).then_some(()))
        })?;
        a.send_line("still here?")?;
        b.expect_line("guest1: still here?")
    })
}

fn resets_one_after_another(target: &Target) -> Result<()> {
    with_guests(target, |server, [a]| {
        for _ in 0..20 {
            let guest = ChatClient::join(server)?;
            let name = guest.name().to_owned();
            a.expect_line(&format!("* {name} joined"))?;
            guest.send_line("hello")?;
            a.expect_line(&format!("{name}: hello"))?;
            guest.send_line("/who")?;
            guest.send(b"and half a line")?;
            guest.reset()?;
            a.expect_line(&format!("* {name} left"))?;
        }
        a.expect_names(&["guest1"])
    })
}

fn garbage(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b]| {
        for seed in 0..100 {
            let mut bytes = vec![0; 3000];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            a.send(&bytes)?;
        }
        a.send(b"\n")?;
        a.client().send_urgent(b'!')?;
        a.send_line("done")?;
        // What of it was text by chance has been heard.
        while !b.next()?.ends_with("done") {}
        b.expect_names(&["guest1", "guest2"])
    })
}

fn byte_at_a_time(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b, c]| {
        for number in 0..30 {
            let text = format!("line number {number}, and some more of it: it takes its time");
            text.bytes().try_for_each(|byte| a.send(&[byte]))?;
            b.send_line("meanwhile")?;
            c.expect_line("guest2: meanwhile")?;
            a.expect_line("guest2: meanwhile")?;
            a.send(b"\n")?;
            b.expect_line(&format!("guest1: {text}"))?;
            c.expect_line(&format!("guest1: {text}"))?;
        }
        Ok(())
    })
}

fn flooding_peer(target: &Target) -> Result<()> {
    with_guests(target, |server, [a, b]| {
        // Nobody else hears of these: so nobody can be too slow for them.
        for bytes in [&b"no end "[..], b"\n", b"\x1b\x07\r\n"] {
            let flood = Flood::start_with(server, bytes)?;
            let joined = a.next()?;
            b.expect_line(&joined)?;
            for number in 0..50 {
                a.send_line(&format!("number {number}"))?;
                b.expect_line(&format!("guest1: number {number}"))
                    .with_context(|| format!("beside one who says {bytes:?} all the time"))?;
            }
            flood.stop().context("the flooding peer lost its connection")?;
            let left = joined.replace("joined", "left");
            for guest in [&a, &b] {
                guest.expect_line(&left)?;
            }
        }
        Ok(())
    })
}

/// More clients than the server has descriptors for: the others come in as those leave.
fn run_out_of_descriptors(
    target: &Target,
    meanwhile: impl FnOnce(&Server) -> Result<()>,
) -> Result<()> {
    const CLIENTS: usize = 200;
    target.launch().fd_limit(LIMIT).serve(|server| {
        ChatClient::join(server)?.finish()?;
        let fits =
            server.free_descriptors(LIMIT)?.len() / target.properties.descriptors_per_client.max(1);
        let mut waiting: Vec<_> =
            (0..CLIENTS).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        let mut inside = Vec::new();
        come_in(&mut waiting, &mut inside, fits).with_context(|| format!("{fits} fit"))?;
        meanwhile(server)?;
        expect_low_cpu(server).context("with clients waiting")?;
        let names: Vec<_> = inside.iter().map(ChatClient::name).collect();
        inside[0].send_line("still here?")?;
        for guest in &inside[1..] {
            let received = format!("{}: still here?", names[0]);
            while guest.next().context("inside, with clients waiting")? != received {}
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
fn come_in(waiting: &mut Vec<Client>, inside: &mut Vec<ChatClient>, count: usize) -> Result<()> {
    let goal = inside.len() + count;
    let what = format!("a welcome for {count} more of {} who wait", waiting.len());
    wait_until(&what, TIMEOUT, || {
        for client in std::mem::take(waiting) {
            if client.has_response()? {
                inside.push(ChatClient::new(client)?);
            } else {
                waiting.push(client);
            }
        }
        Ok((inside.len() >= goal).then_some(()))
    })
}

/// It starts with just the descriptors that it needs itself, as when the system's own table is full:
/// nobody's leaving will tell it that there is room.
fn out_of_descriptors_without_connections(target: &Target) -> Result<()> {
    let mut lowest_free = None;
    target.launch().serve(|server| {
        let guest = ChatClient::join(server)?;
        let with_a_guest = server.usage()?.descriptors;
        guest.finish()?;
        wait_until("a guest's descriptor being closed", TIMEOUT, || {
            Ok((server.usage()?.descriptors < with_a_guest).then_some(()))
        })?;
        lowest_free = server.free_descriptors(LIMIT)?.first().copied();
        Ok(())
    })?;
    let limit = lowest_free.context("none is free")?;
    target.launch().soft_fd_limit(limit).serve(|server| {
        let client = Client::connect(server)?;
        expect_low_cpu(server).context("with nobody here")?;
        ensure!(!client.has_response()?, "it serves one for whom there is no descriptor");
        server.set_fd_limit(Some(LIMIT))?;
        read_greeting(&client).context("when there was room again")?;
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
fn beside_two_floods(target: &Target) -> Result<()> {
    with_guests(target, |server, [third]| {
        let floods =
            [Flood::start_with(server, b"no end ")?, Flood::start_with(server, b"\n\r\n")?];
        third.expect_line("* guest2 joined")?;
        third.expect_line("* guest3 joined")?;
        let taken = || floods.iter().map(Flood::sent).sum::<u64>();
        let goals = floods.each_ref().map(|flood| flood.sent() + FLOOD);
        let flooded = || floods.iter().zip(goals).all(|(flood, goal)| flood.sent() >= goal);
        let (mut count, mut work) = (0, 0);
        let start = Instant::now();
        while count < 50 || !flooded() {
            ensure!(start.elapsed() < 2 * TIMEOUT, "a flooding peer is hardly served");
            thread::sleep(Duration::from_millis(5));
            let before = taken();
            third.expect_names(&["guest1", "guest2", "guest3"])?;
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
fn refuses_beyond(target: &Target) -> Result<()> {
    const SURPLUS: usize = 10;
    let most = target.properties.max_clients.context("it has no limit")?;
    target.launch().serve(|server| {
        let mut guests = join_many(server, most)?;
        for _ in 0..SURPLUS {
            let surplus = Client::connect(server)?;
            ensure!(surplus.line()?.is_none(), "with {most} here one more was let in");
        }
        ensure!(server.log()?.contains("refused"), "it refused guests and did not log it");

        let last = guests.pop().context("nobody is here")?;
        last.send_line("/who")?;
        last.expect_line_starting_with("* here: guest1, guest2, ")?;
        drop(last);
        // That it left may not have been noticed yet.
        wait_until("a new guest being welcomed after one had left", timeout(), || {
            Ok(Client::connect(server)?.line()?.map(drop))
        })
    })
}

fn interrupted_idle(target: &Target) -> Result<()> {
    with_guests(target, |server, [a, b]| {
        for _ in 0..5 {
            server.while_stopped(|| Ok(()))?;
            a.send_line("after")?;
            b.expect_line("guest1: after")?;
            server.while_stopped(|| b.send_line("meanwhile"))?;
            a.expect_line("guest2: meanwhile")?;
        }
        drop(a);
        server.while_stopped(|| Ok(()))?;
        b.expect_line("* guest1 left")?;
        b.expect_names(&["guest2"])
    })
}

fn in_mid_talk(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let talk = Talk { sessions: 12, lines: 150, ..TALK };
        all_at_once_in(server, &talk, |server, _| server.while_stopped(|| Ok(())))
    })
}

/// A guest who has sent its FIN, and reads late, is being written to while the server is stopped.
///
/// Where it waits for room differs: from the FIN on, `io_uring` has a thread of the kernel's wait,
/// and a stop interrupts that.
fn last_lines(target: &Target) -> Result<()> {
    const LINES: usize = 100;
    with_guests(target, |server, [a]| {
        let late = ChatClient::new(Client::connect_narrow(server)?)?;
        a.expect_line("* guest2 joined")?;
        (0..LINES).try_for_each(|number| a.send_line(&format!("{number:1000}")))?;
        a.expect_names(&["guest1", "guest2"])?;
        late.half_close()?;
        a.expect_line("* guest2 left")?;
        let asleep = || Ok(server.is_asleep()?.then_some(()));
        wait_until("the server waiting for room", timeout(), asleep)?;
        server.while_stopped(|| Ok(()))?;
        (0..LINES).try_for_each(|number| late.expect_line(&format!("guest1: {number:1000}")))?;
        late.expect_end()
    })
}

fn idle_clients(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let guests = join_many(server, 100)?;
        ends(server, signal)?;
        guests.into_iter().try_for_each(|guest| {
            // Some were not told yet who joined, and need not be; they may hear an RST.
            while let Ok(Some(line)) = guest.client().line() {
                ensure!(line.ends_with(" joined"), "at the end one heard {line:?}");
            }
            Ok(())
        })
    })
}

fn stalled_client(target: &Target, signal: Signal) -> Result<()> {
    const LINES: usize = 200;
    target.launch().serve(|server| {
        let mut here = vec![ChatSession::join(server)?, ChatSession::join(server)?];
        let _stalled = ChatClient::new(Client::connect_narrow(server)?)?;
        for number in 0..LINES {
            here[0].send_line(&format!("{number:1000}"));
        }
        chat_session::run_until(&mut here, "one hearing another", |here| {
            here[1].received().len() > LINES
        })?;
        ends(server, signal)
    })
}

/// They hear each other, as fast as they can.
fn flooding_clients(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let line = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<_>>();
        let _floods = [
            Flood::start_with(server, &line)?,
            Flood::start_with(server, &line)?,
            Flood::start_with(server, b"/who\n")?,
        ];
        ends(server, signal)
    })
}

/// So many guests come, each says something, and they leave in three ways.
fn come_and_go(_: &Target, server: &Server, count: usize) -> Result<()> {
    let guests = join_many(server, count)?;
    for (number, guest) in guests.into_iter().enumerate() {
        guest.send_line("hello")?;
        guest.send(b"and half a line")?;
        match number % 3 {
            0 => guest.reset()?,
            1 => guest.finish()?,
            _ => {}
        }
    }
    Ok(())
}

fn no_processor_time(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let count = target.properties.idle_clients;
        let _idle = join_many(server, count)?;
        expect_no_wakeups(server).with_context(|| format!("with {count} idle guests"))
    })
}

fn no_buffer(target: &Target) -> Result<()> {
    let count = target.properties.idle_clients;
    let allowed = target.properties.idle_memory.context("it has no bound")? * count as u64;
    target.launch().serve(|server| {
        // What serving takes at all, it has taken.
        join_many(server, 10)?;
        let before = server.usage()?.memory;
        let _idle = join_many(server, count)?;
        // Not all have been told yet who came after them.
        let mut grown = 0;
        wait_until("idle guests taking less", TIMEOUT, || {
            grown = server.usage()?.memory.saturating_sub(before);
            Ok((grown < allowed).then_some(()))
        })
        .with_context(|| format!("{count} idle guests take {grown} bytes of memory"))
    })
}

/// Waits until a line of the log matches.
fn shows(server: &Server, pattern: &str) -> Result<()> {
    let line = Regex::new(pattern)?;
    wait_until(&format!("a line like {pattern:?} in the log"), TIMEOUT, || {
        Ok(server.log()?.lines().any(|text| line.is_match(text)).then_some(()))
    })
}

fn connected_and_disconnected(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let leave: [fn(ChatClient) -> Result<()>; 3] =
            [ChatClient::finish, ChatClient::reset, |guest| guest.send_line("/quit")];
        for leave in leave {
            let guest = ChatClient::join(server)?;
            let peer = regex::escape(&guest.client().address()?.to_string());
            shows(server, &format!("INFO.* {peer} connected$"))?;
            leave(guest)?;
            shows(server, &format!("INFO.* {peer} disconnected"))?;
        }
        Ok(())
    })
}

/// `hello` and its end are six bytes, and with who says it fourteen.
fn two_phases(target: &Target) -> Result<()> {
    target.launch().log_level("trace").serve(|server| {
        let (a, b) = (ChatClient::join(server)?, ChatClient::join(server)?);
        a.send_line("hello")?;
        b.expect_line("guest1: hello")?;
        shows(server, "TRACE.*wait: ")?;
        shows(server, r"TRACE.*copy: (aio_)?(read|recv)\(.* 6( |$)")?;
        shows(server, r"TRACE.*copy: (aio_)?(write|send)\(.* 14( |$)")
    })
}
