//! A client that does not read is disconnected when 256 KiB of output are pending for it. Memory is
//! bounded, and no other client waits. A client that reads late has lost nothing.

use anyhow::{Context, Result, ensure};

use crate::client::Reply;
use crate::{
    Case, ChatClient, ChatSession, Client, Server, Target, chat_session, timeout, wait_until,
};

pub const CASES: &[Case] = &[
    Case::new("never_reads", "a client that never reads is disconnected", |target| {
        never_read(target, 1, Client::connect)
    }),
    Case::new(
        "never_reads_small_segments",
        "a client that never reads is disconnected, with small buffers too",
        |target| never_read(target, 1, Client::connect_narrow),
    ),
    Case::new("twenty_never_read", "twenty clients that never read are disconnected", |target| {
        never_read(target, 20, Client::connect_narrow)
    }),
    Case::new(
        "requests_and_never_reads",
        "a client that never reads the responses to its requests is disconnected",
        requests_and_never_reads,
    ),
    Case::new("reads_late", "a client that reads late receives everything", |target| {
        reads_late(target, Leave::Stay)
    }),
    Case::new(
        "reads_late_after_quit",
        "a client that reads late after /quit receives everything",
        |target| reads_late(target, Leave::Quit),
    ),
    Case::new(
        "reads_late_after_half_close",
        "a client that reads late after FIN receives everything",
        |target| reads_late(target, Leave::HalfClose),
    ),
    Case::new(
        "half_closes_and_never_reads",
        "a client that never reads after FIN is disconnected",
        half_closes_and_never_reads,
    ),
];

/// How much output may be pending for a client.
const PENDING: usize = 256 * 1024;
/// What an allocator may keep.
const SPARE: u64 = 1 << 20;
/// Much more than the limit and what the kernel buffers for a connection that nobody reads from:
/// megabytes of the sender (`tcp_wmem`) and hundreds of kilobytes of the receiver.
const ENOUGH: usize = 32 << 20;
/// Lines sent at once, and the length of each. They are few enough for every client that reads.
const LINES: usize = 100;
const LENGTH: usize = 1000;

/// The first client sends `count` lines, and all clients that read receive them.
///
/// They also receive who joins and leaves.
fn send_lines(sessions: &mut [ChatSession], from: usize, count: usize) -> Result<()> {
    for number in from..from + count {
        sessions[0].send_line(&format!("{number:LENGTH$}"));
    }
    let last = format!("{}: {:LENGTH$}", sessions[0].name(), from + count - 1);
    chat_session::run_until(sessions, "the clients that read to receive all lines", |sessions| {
        let is_current = |it: &ChatSession| it.has_ended() || it.received().contains(&last);
        sessions[0].has_sent_all() && sessions[1..].iter().all(is_current)
    })
    .context("beside a client that does not read")?;
    chat_session::expect_all_connected(sessions)?;
    for session in &sessions[1..] {
        let received = session.received().iter().filter(|line| !line.starts_with("* ")).count();
        ensure!(received == count, "{} received {received} of {count} lines", session.name());
    }
    Ok(())
}

/// Clients that send and read.
fn join_three(server: &Server) -> Result<Vec<ChatSession>> {
    (0..3).map(|_| ChatSession::join(server)).collect()
}

fn never_read(target: &Target, count: usize, connect: fn(&Server) -> Result<Client>) -> Result<()> {
    // All pending output, once more while it is written, and what an allocator takes.
    let allowed = (count * 2 * PENDING) as u64 + SPARE;
    target.launch().serve(|server| {
        let mut sessions = join_three(server)?;
        send_lines(&mut sessions, 0, LINES)?;
        sessions.iter_mut().for_each(ChatSession::clear_received);
        let before = server.usage()?;
        let stalled: Vec<_> =
            (0..count).map(|_| ChatClient::new(connect(server)?)).collect::<Result<_>>()?;

        let mut connected: Vec<_> =
            stalled.iter().map(|client| format!("* {} left", client.name())).collect();
        let mut sent = 0;
        while !connected.is_empty() {
            ensure!(
                sent * LENGTH < ENOUGH,
                "{} clients that do not read are still connected after {sent} lines of {LENGTH} \
                 bytes",
                connected.len()
            );
            send_lines(&mut sessions, sent, LINES)?;
            sent += LINES;
            connected.retain(|line| !sessions[1].received().contains(line));
            sessions.iter_mut().for_each(ChatSession::clear_received);
            let grown = server.usage()?.memory.saturating_sub(before.memory);
            ensure!(
                grown < allowed,
                "the server took {grown} bytes for {count} clients that do not read"
            );
        }

        // What was sent to them before is still on its way, in order.
        for client in stalled {
            let mut received = 0;
            let name = client.name().to_owned();
            let client = client.into_client();
            // The connection may end in mid-line, which is an error for the reader of lines.
            while let Ok(Some(line)) = client.line() {
                if !line.starts_with("* ") {
                    let expected = format!("{}: {received:LENGTH$}", sessions[0].name());
                    ensure!(line == expected, "{name} received another line as number {received}");
                    received += 1;
                }
            }
            ensure!(received < sent, "{name} was to lose lines, but has received all of them");
            let end = client.expect_response_or_end(0).with_context(|| name.clone())?;
            ensure!(end == Reply::Closed, "{name} was disconnected, but received more");
        }
        // The allocator may keep a part of the memory that was freed in between.
        let kept = 2 * SPARE + (count * PENDING / 4) as u64;
        expect_usage(server, before.descriptors, before.memory + kept)
    })
}

fn expect_usage(server: &Server, descriptors: usize, memory: u64) -> Result<()> {
    let mut now = server.usage()?;
    wait_until("the server's resources to be as before", timeout(), || {
        now = server.usage()?;
        Ok((now.descriptors <= descriptors && now.memory <= memory).then_some(()))
    })
    .with_context(|| format!("before: {descriptors} descriptors, {memory} bytes; now: {now:?}"))
}

/// The pending output is not what other clients send, but the responses to this client.
fn requests_and_never_reads(target: &Target) -> Result<()> {
    const REQUESTS: usize = 10_000;
    target.launch().serve(|server| {
        let mut sessions = join_three(server)?;
        let before = server.usage()?;
        let client = ChatClient::new(Client::connect_narrow(server)?)?;
        let mut stalled = ChatSession::new(client)?.without_reading();
        let left = format!("* {} left", stalled.name());
        let mut requests = 0;
        loop {
            ensure!(
                requests * 6 < ENOUGH,
                "a client that does not read got responses to {requests} requests"
            );
            if stalled.has_sent_all() && !stalled.has_ended() {
                (0..REQUESTS).for_each(|_| stalled.send_line("/who"));
                requests += REQUESTS;
            }
            sessions.push(stalled);
            let old = sessions[0].received().len();
            sessions[0].send_line("/who");
            let what = "a response beside a client that only sends requests";
            chat_session::run_until(&mut sessions, what, |sessions| {
                let new = &sessions[0].received()[old..];
                new.iter().any(|line| line.starts_with("* here: "))
            })?;
            stalled = sessions.pop().context("there is no client")?;
            chat_session::expect_all_connected(&sessions)?;
            if sessions[0].received().contains(&left) {
                break;
            }
            let grown = server.usage()?.memory.saturating_sub(before.memory);
            let allowed = 2 * PENDING as u64 + SPARE;
            ensure!(
                grown < allowed,
                "the server took {grown} bytes for a client that does not read"
            );
        }
        drop(stalled);
        expect_usage(server, before.descriptors, before.memory + 2 * SPARE)
    })
}

#[derive(Clone, Copy)]
enum Leave {
    Stay,
    Quit,
    HalfClose,
}

/// Most of what may be pending is pending for a client, which then reads all of it.
fn reads_late(target: &Target, leave: Leave) -> Result<()> {
    const LINES: usize = 200;
    target.launch().serve(|server| {
        let mut sessions = join_three(server)?;
        let late = ChatClient::new(Client::connect_narrow(server)?)?;
        let left = format!("* {} left", late.name());
        send_lines(&mut sessions, 0, LINES)?;
        match leave {
            Leave::Stay => {}
            Leave::Quit => late.send_line("/quit")?,
            Leave::HalfClose => late.half_close()?,
        }
        if !matches!(leave, Leave::Stay) {
            chat_session::run_until(&mut sessions, "the others to receive `left`", |sessions| {
                sessions.iter().all(|session| session.received().contains(&left))
            })?;
            // The client is no longer in the room, so it must not receive this line.
            sessions.iter_mut().for_each(ChatSession::clear_received);
            send_lines(&mut sessions, LINES, 1)?;
        }
        for number in 0..LINES {
            late.expect_line(&format!("{}: {number:LENGTH$}", sessions[0].name()))?;
        }
        match leave {
            Leave::Stay => {
                let names = late.who()?;
                ensure!(names.len() == 4, "{names:?} are in the room");
                Ok(())
            }
            Leave::Quit => {
                late.expect_line("* bye")?;
                late.expect_end()
            }
            Leave::HalfClose => late.expect_end(),
        }
    })
}

/// The client does not take its pending output, and the server cannot keep it for ever.
fn half_closes_and_never_reads(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut sessions = join_three(server)?;
        send_lines(&mut sessions, 0, LINES)?;
        sessions.iter_mut().for_each(ChatSession::clear_received);
        let before = server.usage()?;
        let late = ChatClient::new(Client::connect_narrow(server)?)?;
        let left = format!("* {} left", late.name());
        send_lines(&mut sessions, 0, 2 * LINES)?;
        late.half_close()?;
        chat_session::run_until(&mut sessions, "the others to receive `left`", |sessions| {
            sessions.iter().all(|session| session.received().contains(&left))
        })?;
        expect_usage(server, before.descriptors, before.memory + 2 * SPARE)
    })
}
