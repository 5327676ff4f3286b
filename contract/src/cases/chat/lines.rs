//! The lines of the contract, for chat servers.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::order::{self, TALK, Talk};
use super::with_clients;
use crate::case::{Case, MANY_DESCRIPTORS, Need};
use crate::cases::accept::{expect_low_cpu, limited};
use crate::cases::idle::expect_no_wakeups;
use crate::cases::leaks::rounds;
use crate::cases::limits;
use crate::cases::log::expect_line;
use crate::cases::shutdown::{self, ends, no_client};
use crate::chat_client::{join_many, read_greeting};
use crate::{
    ChatClient, ChatSession, Client, Flood, Server, Target, chat_session, filter, timeout,
    wait_until,
};

pub const ISOLATION: &[Case] = &[
    Case::new(
        "disconnected_before_accept",
        "clients that disconnect before they are accepted do no harm",
        disconnected_before_accept,
    ),
    Case::new(
        "resets_one_after_another",
        "after 20 clients have reset their connections, the room is as before",
        resets_one_after_another,
    ),
    Case::new("garbage", "a client that sends arbitrary bytes does no harm", garbage),
    Case::new(
        "byte_at_a_time",
        "a client that sends one byte at a time delays nobody",
        byte_at_a_time,
    ),
    Case::new(
        "flooding_client",
        "a client that sends as fast as it can delays nobody",
        flooding_client,
    ),
];

pub const ACCEPT: &[Case] = &[
    Case::new(
        "out_of_descriptors",
        "with more clients than file descriptors, all join in turn",
        |target| run_out_of_descriptors(target, |_| Ok(())),
    ),
    Case::new(
        "out_of_descriptors_without_connections",
        "without a free file descriptor and without connections, the server waits for one",
        out_of_descriptors_without_connections,
    ),
    Case::new(
        "accept_fails",
        "if accept always fails, the server uses under 5 % of a core and obeys SIGTERM",
        accept_fails,
    )
    .needs(&[filter::SECCOMP]),
];

pub const CLOSING: &[Case] = &[
    Case::new(
        "quit_and_late_input",
        "input after /quit does not destroy `* bye`",
        quit_and_late_input,
    ),
    Case::new(
        "quit_and_late_input_small_window",
        "a client with a small receive buffer receives everything up to `* bye`",
        quit_and_late_input_small_window,
    ),
    Case::new(
        "goodbye_and_late_input",
        "late input does not destroy the goodbye",
        goodbye_and_late_input,
    ),
];

pub const FAIRNESS: &[Case] = &[
    Case::new(
        "beside_two_floods",
        "beside two clients that flood the server, a third one is served soon",
        beside_two_floods,
    )
    .exclusive(),
    Case::new(
        "beside_computations",
        "beside a client that keeps the server computing, others talk",
        beside_computations,
    )
    .needs(&[Need::Property(
        |target| !target.properties.computes_in_loop,
        "while the server computes, all clients wait",
    )]),
];

pub const LIMITS: &[Case] = &[
    Case::new(
        "refuses_surplus",
        "clients beyond the limit are refused, and the others stay",
        refuses_surplus,
    )
    .needs(&[HAS_LIMIT, MANY_DESCRIPTORS])
    .exclusive(),
    Case::new(
        "departed_clients",
        "clients join although many others have just left",
        departed_clients,
    )
    .needs(&[HAS_LIMIT, MANY_DESCRIPTORS])
    .exclusive(),
    limits::FEW_THREADS,
    limits::NO_STACKS,
    limits::NO_ADDRESS_SPACE,
];

/// How many clients of a round are in the room at the same time. Each line goes to all of them, which
/// takes a debug build several seconds if they are many.
const GROUP: usize = if cfg!(debug_assertions) { 50 } else { usize::MAX };

const HAS_LIMIT: Need = Need::Property(
    |target| target.properties.max_clients.is_some(),
    "the server has no limit beyond which it refuses clients",
);

pub const INTERRUPTION: &[Case] = &[
    Case::new("idle", "SIGSTOP and SIGCONT do not disturb idle clients", interrupted_idle),
    Case::new("in_mid_talk", "SIGSTOP and SIGCONT do not disturb clients that talk", in_mid_talk),
    Case::new(
        "last_lines",
        "SIGSTOP and SIGCONT do not disturb a client that reads late after FIN",
        last_lines,
    ),
    Case::new(
        "out_of_descriptors",
        "SIGSTOP and SIGCONT do not disturb a server without free file descriptors",
        |target| {
            run_out_of_descriptors(target, |server| {
                (0..3).try_for_each(|_| server.while_stopped(|| Ok(())))
            })
        },
    ),
];

pub const SHUTDOWN: &[Case] = &[
    Case::new("sigint_no_client", "SIGINT ends the server", |target| {
        no_client(target, Signal::INT)
    })
    .exclusive(),
    Case::new("sigterm_no_client", "SIGTERM ends the server", |target| {
        no_client(target, Signal::TERM)
    })
    .exclusive(),
    Case::new("sigint_idle_clients", "SIGINT ends the server beside idle clients", |target| {
        idle_clients(target, Signal::INT)
    })
    .exclusive(),
    Case::new("sigterm_idle_clients", "SIGTERM ends the server beside idle clients", |target| {
        idle_clients(target, Signal::TERM)
    })
    .exclusive(),
    Case::new(
        "sigint_stalled_client",
        "SIGINT ends the server beside a client that does not read",
        |target| stalled_client(target, Signal::INT),
    )
    .exclusive(),
    Case::new(
        "sigterm_stalled_client",
        "SIGTERM ends the server beside a client that does not read",
        |target| stalled_client(target, Signal::TERM),
    )
    .exclusive(),
    Case::new(
        "sigint_flooding_clients",
        "SIGINT ends the server while clients flood it",
        |target| flooding_clients(target, Signal::INT),
    )
    .exclusive(),
    Case::new(
        "sigterm_flooding_clients",
        "SIGTERM ends the server while clients flood it",
        |target| flooding_clients(target, Signal::TERM),
    )
    .exclusive(),
    Case::new("sigterm_computing", "SIGTERM ends the server while it computes", computing)
        .exclusive(),
    shutdown::SIGNALS_BLOCKED,
];

pub const LEAKS: &[Case] = &[
    Case::new(
        "rounds_of_200",
        "after three times 200 clients, everything is as after the first 200",
        |target| rounds(target, 200, 3, join_and_leave),
    ),
    Case::new(
        "rounds_of_500",
        "after 500 more clients, everything is as after the first 500",
        |target| rounds(target, 500, 1, join_and_leave),
    )
    .needs(&[MANY_DESCRIPTORS])
    .exclusive(),
];

pub const IDLE: &[Case] = &[
    Case::new(
        "no_processor_time",
        "the server does not wake up while its clients are idle",
        no_processor_time,
    )
    .needs(&[MANY_DESCRIPTORS]),
    Case::new("no_buffer", "an idle client costs little memory", no_buffer)
        .needs(&[
            Need::Property(
                |target| target.properties.idle_memory.is_some(),
                "no limit is given for the memory of an idle client",
            ),
            MANY_DESCRIPTORS,
        ])
        .exclusive(),
];

pub const CONNECTED_AND_DISCONNECTED: Case = Case::new(
    "connected_and_disconnected",
    "the log shows each client that connects and disconnects",
    connected_and_disconnected,
);

pub const TWO_PHASES: Case = Case::new(
    "two_phases",
    "with RUST_LOG=trace the log shows the waits and the copies",
    two_phases,
);

fn disconnected_before_accept(target: &Target) -> Result<()> {
    with_clients(target, |server, [a]| {
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
        // The server accepts them before this one, in the order in which they connected.
        let b = ChatClient::join(server)?;
        wait_until("the clients that did not wait to leave", timeout(), || {
            b.send_line("/who")?;
            let mut line = b.next_line()?;
            while !line.starts_with("* here: ") {
                line = b.next_line()?;
            }
            Ok((line == format!("* here: guest1, {}", b.name())).then_some(()))
        })?;
        a.send_line("still here?")?;
        b.expect_line("guest1: still here?")
    })
}

fn resets_one_after_another(target: &Target) -> Result<()> {
    with_clients(target, |server, [a]| {
        for _ in 0..20 {
            let client = ChatClient::join(server)?;
            let name = client.name().to_owned();
            a.expect_line(&format!("* {name} joined"))?;
            client.send_line("hello")?;
            a.expect_line(&format!("{name}: hello"))?;
            client.send_line("/who")?;
            client.send(b"and half a line")?;
            client.reset()?;
            a.expect_line(&format!("* {name} left"))?;
        }
        a.expect_names(&["guest1"])
    })
}

fn garbage(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        for seed in 0..100 {
            let mut bytes = vec![0; 3000];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            a.send(&bytes)?;
        }
        a.send(b"\n")?;
        a.client().send_urgent(b'!')?;
        a.send_line("done")?;
        // Some of it was text by chance.
        while !b.next_line()?.ends_with("done") {}
        b.expect_names(&["guest1", "guest2"])
    })
}

fn byte_at_a_time(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b, c]| {
        for number in 0..30 {
            let text = format!("line number {number}, with some more text so that it takes longer");
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

fn flooding_client(target: &Target) -> Result<()> {
    with_clients(target, |server, [a, b]| {
        // These bytes go to no other client, so none of them can be too slow.
        for bytes in [&b"no end "[..], b"\n", b"\x1b\x07\r\n"] {
            let flood = Flood::start_with(server, bytes)?;
            let joined = a.next_line()?;
            b.expect_line(&joined)?;
            for number in 0..50 {
                a.send_line(&format!("number {number}"))?;
                b.expect_line(&format!("guest1: number {number}"))
                    .with_context(|| format!("beside a client that floods with {bytes:?}"))?;
            }
            flood.stop().context("the flooding client lost its connection")?;
            let left = joined.replace("joined", "left");
            for client in [&a, &b] {
                client.expect_line(&left)?;
            }
        }
        Ok(())
    })
}

/// More clients than the server has file descriptors for: the others join as those leave.
fn run_out_of_descriptors(
    target: &Target,
    meanwhile: impl FnOnce(&Server) -> Result<()>,
) -> Result<()> {
    const CLIENTS: usize = 200;
    limited(target).serve(|server| {
        ChatClient::join(server)?.finish()?;
        let free = server.free_descriptors(target.properties.fd_limit)?.len();
        let capacity = free / target.properties.descriptors_per_client.unwrap_or(1).max(1);
        let mut waiting: Vec<_> =
            (0..CLIENTS).map(|_| Client::connect(server)).collect::<Result<_>>()?;
        let mut joined = Vec::new();
        expect_joined(&mut waiting, &mut joined, capacity)
            .with_context(|| format!("there are file descriptors for {capacity}"))?;
        meanwhile(server)?;
        expect_low_cpu(server).context("with clients waiting")?;
        let names: Vec<_> = joined.iter().map(ChatClient::name).collect();
        joined[0].send_line("still here?")?;
        for client in &joined[1..] {
            let line = format!("{}: still here?", names[0]);
            while client.next_line().context("with clients waiting")? != line {}
        }
        if !waiting.is_empty() {
            joined.pop();
            expect_joined(&mut waiting, &mut joined, 1).context("after one client left")?;
        }
        while !waiting.is_empty() {
            let left = joined.len();
            joined.clear();
            let next = left.min(capacity).min(waiting.len());
            expect_joined(&mut waiting, &mut joined, next)
                .with_context(|| format!("after {left} clients left"))?;
        }
        Ok(())
    })
}

/// Waits until `count` more clients have received their greeting.
fn expect_joined(
    waiting: &mut Vec<Client>,
    joined: &mut Vec<ChatClient>,
    count: usize,
) -> Result<()> {
    let goal = joined.len() + count;
    let what = format!("a greeting for {count} more of {} waiting clients", waiting.len());
    wait_until(&what, timeout(), || {
        for client in std::mem::take(waiting) {
            if client.has_greeting()? {
                joined.push(ChatClient::new(client)?);
            } else {
                waiting.push(client);
            }
        }
        Ok((joined.len() >= goal).then_some(()))
    })
}

/// The server starts with just the file descriptors that it needs itself, as if the table of the
/// whole system were full. No client leaves and makes space.
fn out_of_descriptors_without_connections(target: &Target) -> Result<()> {
    let limit = target.properties.fd_limit;
    let mut lowest_free = None;
    target.launch().serve(|server| {
        let client = ChatClient::join(server)?;
        let with_a_client = server.usage()?.descriptors;
        client.finish()?;
        wait_until("the file descriptor of a client to be closed", timeout(), || {
            Ok((server.usage()?.descriptors < with_a_client).then_some(()))
        })?;
        lowest_free = server.free_descriptors(limit)?.first().copied();
        Ok(())
    })?;
    let lowest_free = lowest_free.context("none is free")?;
    target.launch().soft_fd_limit(lowest_free).serve(|server| {
        let client = Client::connect(server)?;
        expect_low_cpu(server).context("with no client connected")?;
        ensure!(!client.has_greeting()?, "a client was served without a file descriptor");
        server.set_fd_limit(Some(limit))?;
        read_greeting(&client).context("after file descriptors were free again")?;
        Ok(())
    })
}

fn accept_fails(target: &Target) -> Result<()> {
    target.launch().filter(filter::no_accept()?).serve(|server| {
        let client = Client::connect(server)?;
        thread::sleep(Duration::from_millis(300));
        // io_uring accepts without the system call.
        if !client.has_greeting()? {
            expect_low_cpu(server).context("while accept fails with EPERM")?;
        }
        ends(target, server, Signal::TERM).context("while accept fails with EPERM")
    })
}

/// The kernel sends RST if a socket is closed with unread input, and RST discards what the client
/// has not read yet.
fn quit_and_late_input(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b]| {
        let junk = b"junk\n".repeat(40_000);
        a.send_line("/quit")?;
        // It fails if the server has closed the connection for good.
        let _ = a.send(&junk);
        a.expect_line("* bye")?;
        ensure!(a.client().drain()?, "after /quit the connection did not end");
        b.expect_line("* guest1 left")?;
        b.expect_names(&["guest2"])
    })
}

/// Hundreds of lines are pending when the client quits.
fn quit_and_late_input_small_window(target: &Target) -> Result<()> {
    const LINES: usize = 200;
    for late in [&b"x"[..], &b"junk\n".repeat(4000)] {
        with_clients(target, |server, [sender]| {
            let client = ChatClient::new(Client::connect_narrow(server)?)?;
            sender.expect_line(&format!("* {} joined", client.name()))?;
            (0..LINES).try_for_each(|number| sender.send_line(&format!("{number:500}")))?;
            // The server has sent all lines when it responds to this.
            sender.expect_names(&["guest1", client.name()])?;
            client.send_line("/quit")?;
            sender.expect_line(&format!("* {} left", client.name()))?;
            client.send(late)?;
            thread::sleep(Duration::from_millis(100));
            for number in 0..LINES {
                client.expect_line(&format!("guest1: {number:500}"))?;
            }
            client.expect_line("* bye")?;
            ensure!(client.client().drain()?, "after /quit the connection did not end");
            Ok(())
        })?;
    }
    Ok(())
}

/// The client sends its first line for a long time just when the server says goodbye.
fn goodbye_and_late_input(target: &Target) -> Result<()> {
    target.with_argument("1").launch().serve(|server| {
        let client = ChatClient::new(Client::connect_narrow(server)?)?;
        // The goodbye has arrived, but the client reads it later.
        client.client().wait_for_input(timeout())?;
        let _ = client.send(&b"junk\n".repeat(4000));
        thread::sleep(Duration::from_millis(100));
        client.expect_line("* idle for 1 s, goodbye")?;
        ensure!(client.client().drain()?, "after the goodbye the connection did not end");
        Ok(())
    })
}

/// Bytes that the floods get rid of while the third client waits for one response, on average.
///
/// Counted in bytes, the limit is the same on a slow machine and on a fast one. A server that
/// limits its work per wake-up reads a buffer or two of each flood before the next one's turn.
const WORK: u64 = 4 << 20;
/// What each flood has to get rid of meanwhile, so that it is one.
const FLOOD: u64 = 4 << 20;

/// What the floods send goes to no other client, so none of them can be too slow.
fn beside_two_floods(target: &Target) -> Result<()> {
    with_clients(target, |server, [third]| {
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
            ensure!(start.elapsed() < 2 * timeout(), "a flooding client is hardly served");
            thread::sleep(Duration::from_millis(5));
            let before = taken();
            third.expect_names(&["guest1", "guest2", "guest3"])?;
            work += taken() - before;
            count += 1;
        }
        let average = work / count;
        ensure!(
            average < WORK,
            "the server read {average} bytes of two floods while another client waited for one \
             response"
        );
        floods.into_iter().try_for_each(Flood::stop)
    })
}

/// They talk many times during one computation. If they had to wait for the computations, at least
/// one would end each time that a line is passed on.
///
/// The clients are in different loops, if the server has several.
fn beside_computations(target: &Target) -> Result<()> {
    const ROUNDS: usize = 50;
    const LARGEST_PRIME: u64 = 999_999_999_999_989;
    with_clients(target, |_, [a, b, c]| {
        a.send(format!("/factor {LARGEST_PRIME}\n").repeat(100).as_bytes())?;
        a.expect_line(&format!("* {LARGEST_PRIME} = {LARGEST_PRIME}"))?;
        for number in 0..ROUNDS {
            b.send_line(&format!("question {number}"))?;
            c.expect_line(&format!("guest2: question {number}"))?;
            c.send_line(&format!("reply {number}"))?;
            b.expect_line(&format!("guest3: reply {number}"))?;
        }
        // The client that waits for its results receives this line after those that it has got.
        b.send_line("done")?;
        let mut computations = 0;
        loop {
            let line = a.next_line()?;
            if line == "guest2: done" {
                break;
            }
            computations += usize::from(line.starts_with("* "));
        }
        ensure!(
            computations < ROUNDS / 2,
            "{ROUNDS} questions and replies took as long as {computations} computations"
        );
        Ok(())
    })
}

fn refuses_surplus(target: &Target) -> Result<()> {
    const SURPLUS: usize = 10;
    let limit = target.properties.max_clients.context("there is no limit")?;
    target.launch().serve(|server| {
        let mut clients = join_many(server, limit)?;
        for _ in 0..SURPLUS {
            let surplus = Client::connect(server)?;
            ensure!(surplus.line()?.is_none(), "with {limit} clients, one more was let in");
        }
        ensure!(server.log()?.contains("refused"), "the log does not say that it refused clients");

        let last = clients.pop().context("there is no client")?;
        last.send_line("/who")?;
        last.expect_line_starting_with("* here: guest1, guest2, ")?;
        drop(last);
        // The server may not have noticed yet that the client has left.
        wait_until("a new client to join after one has left", timeout(), || {
            Ok(Client::connect(server)?.line()?.map(drop))
        })
    })
}

/// A server that releases clients slowly must not count them when it decides whether it is full.
fn departed_clients(target: &Target) -> Result<()> {
    /// See [`GROUP`].
    const ROUNDS: usize = if cfg!(debug_assertions) { 1 } else { 3 };
    let limit = target.properties.max_clients.context("there is no limit")?;
    target.launch().serve(|server| {
        for _ in 0..ROUNDS {
            let clients = join_many(server, limit * 3 / 4)?;
            drop(clients);
            // They connect at once, while the server is still busy with those that have left.
            let new: Vec<_> =
                (0..limit / 2).map(|_| Client::connect(server)).collect::<Result<_>>()?;
            for (number, client) in new.iter().enumerate() {
                read_greeting(client).with_context(|| {
                    format!("client {number} joins after {} others left", limit * 3 / 4)
                })?;
            }
        }
        Ok(())
    })
}

fn interrupted_idle(target: &Target) -> Result<()> {
    with_clients(target, |server, [a, b]| {
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
        let talk = Talk { senders: 12, lines: 150, ..TALK };
        order::run(server, &talk, |server| server.while_stopped(|| Ok(())))
    })
}

/// The server is stopped while it has pending output for a client that has sent FIN and reads late.
///
/// The servers wait for space in different ways. After FIN, `io_uring` lets a kernel thread wait,
/// which SIGSTOP interrupts.
fn last_lines(target: &Target) -> Result<()> {
    const LINES: usize = 100;
    with_clients(target, |server, [a]| {
        let late = ChatClient::new(Client::connect_narrow(server)?)?;
        a.expect_line("* guest2 joined")?;
        (0..LINES).try_for_each(|number| a.send_line(&format!("{number:1000}")))?;
        a.expect_names(&["guest1", "guest2"])?;
        late.half_close()?;
        a.expect_line("* guest2 left")?;
        let asleep = || Ok(server.is_asleep()?.then_some(()));
        wait_until("the server to wait for space", timeout(), asleep)?;
        server.while_stopped(|| Ok(()))?;
        (0..LINES).try_for_each(|number| late.expect_line(&format!("guest1: {number:1000}")))?;
        late.expect_end()
    })
}

fn idle_clients(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let clients = join_many(server, 100)?;
        ends(target, server, signal)?;
        clients.into_iter().try_for_each(|client| {
            // Some have not read yet who joined. They may see RST.
            while let Ok(Some(line)) = client.client().line() {
                ensure!(line.ends_with(" joined"), "at the end a client received {line:?}");
            }
            Ok(())
        })
    })
}

fn stalled_client(target: &Target, signal: Signal) -> Result<()> {
    const LINES: usize = 200;
    target.launch().serve(|server| {
        let mut sessions = vec![ChatSession::join(server)?, ChatSession::join(server)?];
        let _stalled = ChatClient::new(Client::connect_narrow(server)?)?;
        for number in 0..LINES {
            sessions[0].send_line(&format!("{number:1000}"));
        }
        chat_session::run_until(&mut sessions, "a client to receive all lines", |sessions| {
            sessions[1].received().len() > LINES
        })?;
        ends(target, server, signal)
    })
}

/// They send to each other as fast as they can.
fn flooding_clients(target: &Target, signal: Signal) -> Result<()> {
    target.launch().serve(|server| {
        let line = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<_>>();
        let _floods = [
            Flood::start_with(server, &line)?,
            Flood::start_with(server, &line)?,
            Flood::start_with(server, b"/who\n")?,
        ];
        ends(target, server, signal)
    })
}

fn computing(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let client = ChatClient::join(server)?;
        client.send("/factor 9999999999971\n".repeat(150).as_bytes())?;
        client.expect_line("* 9999999999971 = 9999999999971")?;
        ends(target, server, Signal::TERM)
    })
}

/// Clients join, send a line, and leave in three ways.
fn join_and_leave(_: &Target, server: &Server, count: usize) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let clients = join_many(server, left.min(GROUP))?;
        left -= clients.len();
        for (number, client) in clients.into_iter().enumerate() {
            client.send_line("hello")?;
            client.send(b"and half a line")?;
            match number % 3 {
                0 => client.reset()?,
                1 => client.finish()?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn no_processor_time(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let count = target.properties.idle_clients;
        let _idle = join_many(server, count)?;
        expect_no_wakeups(server).with_context(|| format!("with {count} idle clients"))
    })
}

fn no_buffer(target: &Target) -> Result<()> {
    let count = target.properties.idle_clients;
    let allowed = target.properties.idle_memory.context("there is no limit")? * count as u64;
    target.launch().serve(|server| {
        // The server has then allocated what it needs to serve at all.
        join_many(server, 10)?;
        let before = server.usage()?.memory;
        let _idle = join_many(server, count)?;
        // Some clients have pending output: who joined after them.
        let mut grown = 0;
        wait_until("idle clients to take less memory", timeout(), || {
            grown = server.usage()?.memory.saturating_sub(before);
            Ok((grown < allowed).then_some(()))
        })
        .with_context(|| format!("{count} idle clients take {grown} bytes of memory"))
    })
}

fn connected_and_disconnected(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let leave: [fn(ChatClient) -> Result<()>; 3] =
            [ChatClient::finish, ChatClient::reset, |client| client.send_line("/quit")];
        for leave in leave {
            let client = ChatClient::join(server)?;
            let peer = regex::escape(&client.client().address()?.to_string());
            expect_line(server, &format!("INFO.* {peer} connected$"))?;
            leave(client)?;
            expect_line(server, &format!("INFO.* {peer} disconnected"))?;
        }
        Ok(())
    })
}

/// `hello` and its end are six bytes, and with the name of the sender fourteen.
fn two_phases(target: &Target) -> Result<()> {
    target.launch().log_level("trace").serve(|server| {
        let (a, b) = (ChatClient::join(server)?, ChatClient::join(server)?);
        a.send_line("hello")?;
        b.expect_line("guest1: hello")?;
        expect_line(server, "TRACE.*wait: ")?;
        expect_line(server, r"TRACE.*copy: (aio_)?(read|recv)\(.* 6( |$)")?;
        expect_line(server, r"TRACE.*copy: (aio_)?(writev?|send)\(.* 14( |$)")
    })
}
