//! A client that does not read is disconnected once 256 KiB wait for it; memory stays bounded,
//! and nobody else waits for it. One that reads late has not lost anything.

use anyhow::{Context, Result, ensure};

use crate::client::Reply;
use crate::{ChatClient, ChatSession, Client, Server, TIMEOUT, Target, chat_session, wait_until};

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("never_reads", |target| never_read(target, 1, Client::connect)),
    Case::new("never_reads_small_segments", |target| never_read(target, 1, Client::connect_narrow)),
    Case::new("twenty_never_read", |target| never_read(target, 20, Client::connect_narrow)),
    Case::new("requests_and_never_reads", requests_and_never_reads),
    Case::new("reads_late", |target| reads_late(target, Leave::Stay)),
    Case::new("reads_late_after_quit", |target| reads_late(target, Leave::Quit)),
    Case::new("reads_late_after_half_close", |target| reads_late(target, Leave::HalfClose)),
    Case::new("half_closes_and_never_reads", half_closes_and_never_reads),
];

/// What may wait for a client.
const BOUND: usize = 256 * 1024;
/// What an allocator may keep.
const SPARE: u64 = 1 << 20;
/// Much more than the bound and what the kernel keeps of a connection that nobody reads: of the
/// sender's megabytes (`tcp_wmem`), and hundreds of kilobytes of the receiver's.
const ENOUGH: usize = 32 << 20;
/// Lines said at once, and the length of each. They are few enough for everybody who reads.
const LINES: usize = 100;
const LENGTH: usize = 1000;

/// The first one says so many lines, and all who are here and listen hear them.
///
/// Beside them they hear the news of the room, which they forget.
fn say_some(here: &mut [ChatSession], from: usize, count: usize) -> Result<()> {
    for number in from..from + count {
        here[0].send_line(&format!("{number:LENGTH$}"));
    }
    let last = format!("{}: {:LENGTH$}", here[0].name(), from + count - 1);
    chat_session::run_until(here, "those who read hearing what is said", |here| {
        let up_to_date = |it: &ChatSession| it.has_ended() || it.received().contains(&last);
        here[0].has_sent_all() && here[1..].iter().all(up_to_date)
    })
    .context("beside one who does not read")?;
    chat_session::expect_all_connected(here)?;
    for session in &here[1..] {
        let received = session.received().iter().filter(|line| !line.starts_with("* ")).count();
        ensure!(received == count, "{} heard {received} of {count} lines", session.name());
    }
    Ok(())
}

/// Room for those who talk and read.
fn sessions(server: &Server) -> Result<Vec<ChatSession>> {
    (0..3).map(|_| ChatSession::join(server)).collect()
}

fn never_read(target: &Target, count: usize, connect: fn(&Server) -> Result<Client>) -> Result<()> {
    // All that waits for one, once more in the hands of who writes it, and what an allocator takes.
    let allowed = (count * 2 * BOUND) as u64 + SPARE;
    target.launch().serve(|server| {
        let mut here = sessions(server)?;
        say_some(&mut here, 0, LINES)?;
        here.iter_mut().for_each(ChatSession::clear_received);
        let before = server.usage()?;
        let stalled: Vec<_> =
            (0..count).map(|_| ChatClient::new(connect(server)?)).collect::<Result<_>>()?;

        let mut left: Vec<_> =
            stalled.iter().map(|guest| format!("* {} left", guest.name())).collect();
        let mut sent = 0;
        while !left.is_empty() {
            ensure!(
                sent * LENGTH < ENOUGH,
                "{} who do not read are still here after {sent} lines of {LENGTH} bytes",
                left.len()
            );
            say_some(&mut here, sent, LINES)?;
            sent += LINES;
            left.retain(|line| !here[1].received().contains(line));
            here.iter_mut().for_each(ChatSession::clear_received);
            let grown = server.usage()?.memory.saturating_sub(before.memory);
            ensure!(grown < allowed, "it took {grown} bytes for {count} who do not read");
        }

        // What they had been sent before is still on its way to them, in order.
        for guest in stalled {
            let mut received = 0;
            let name = guest.name().to_owned();
            let client = guest.into_client();
            // It may end in mid-line, which is an error of who reads lines.
            while let Ok(Some(line)) = client.line() {
                if !line.starts_with("* ") {
                    let expected = format!("{}: {received:LENGTH$}", here[0].name());
                    ensure!(
                        line == expected,
                        "{name} did not hear line {received} as number {received}"
                    );
                    received += 1;
                }
            }
            ensure!(received < sent, "{name} was to lose lines, and has them all");
            let end = client.expect_or_end(b"").with_context(|| format!("{name} was dropped"))?;
            ensure!(end == Reply::Closed, "{name} was dropped, and heard more");
        }
        // What was freed in between may stay with the allocator: a part of it, not all.
        let kept = 2 * SPARE + (count * BOUND / 4) as u64;
        back_to(server, before.descriptors, before.memory + kept)
    })
}

fn back_to(server: &Server, descriptors: usize, memory: u64) -> Result<()> {
    let mut now = server.usage()?;
    wait_until("the server being as it was", TIMEOUT, || {
        now = server.usage()?;
        Ok((now.descriptors <= descriptors && now.memory <= memory).then_some(()))
    })
    .with_context(|| format!("{descriptors} descriptors and {memory} bytes became {now:?}"))
}

/// It is not what others say that it does not read, but the answers to itself.
fn requests_and_never_reads(target: &Target) -> Result<()> {
    const QUESTIONS: usize = 10_000;
    target.launch().serve(|server| {
        let mut here = sessions(server)?;
        let before = server.usage()?;
        let client = Client::connect_narrow(server)?;
        let mut asks = ChatSession::new(ChatClient::new(client)?)?.without_reading();
        let left = format!("* {} left", asks.name());
        let mut asked = 0;
        loop {
            ensure!(asked * 6 < ENOUGH, "{asked} questions were answered to one who does not read");
            if asks.has_sent_all() && !asks.has_ended() {
                (0..QUESTIONS).for_each(|_| asks.send_line("/who"));
                asked += QUESTIONS;
            }
            here.push(asks);
            let old = here[0].received().len();
            here[0].send_line("/who");
            chat_session::run_until(&mut here, "an answer beside one who asks", |here| {
                here[0].received().len() > old
                    && here[0].received()[old..].iter().any(|line| line.starts_with("* here: "))
            })?;
            asks = here.pop().context("nobody is here")?;
            chat_session::expect_all_connected(&here)?;
            if here[0].received().contains(&left) {
                break;
            }
            let grown = server.usage()?.memory.saturating_sub(before.memory);
            let allowed = 2 * BOUND as u64 + SPARE;
            ensure!(grown < allowed, "it took {grown} bytes for one who does not read");
        }
        drop(asks);
        back_to(server, before.descriptors, before.memory + 2 * SPARE)
    })
}

#[derive(Clone, Copy)]
enum Leave {
    Stay,
    Quit,
    HalfClose,
}

/// Most of what may wait waits for one that then reads it, all of it.
fn reads_late(target: &Target, leave: Leave) -> Result<()> {
    const LINES: usize = 200;
    target.launch().serve(|server| {
        let mut here = sessions(server)?;
        let late = ChatClient::new(Client::connect_narrow(server)?)?;
        let left = format!("* {} left", late.name());
        say_some(&mut here, 0, LINES)?;
        match leave {
            Leave::Stay => {}
            Leave::Quit => late.send_line("/quit")?,
            Leave::HalfClose => late.half_close()?,
        }
        if !matches!(leave, Leave::Stay) {
            chat_session::run_until(&mut here, "the others hearing that one left", |here| {
                here.iter().all(|session| session.received().contains(&left))
            })?;
            // It is no part of this any more.
            here.iter_mut().for_each(ChatSession::clear_received);
            say_some(&mut here, LINES, 1)?;
        }
        for number in 0..LINES {
            late.expect_line(&format!("{}: {number:LENGTH$}", here[0].name()))?;
        }
        match leave {
            Leave::Stay => {
                let names = late.who()?;
                ensure!(names.len() == 4, "{names:?} are here");
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

/// What is owed to it is not taken, and nobody can wait for that for ever.
fn half_closes_and_never_reads(target: &Target) -> Result<()> {
    target.launch().serve(|server| {
        let mut here = sessions(server)?;
        say_some(&mut here, 0, LINES)?;
        here.iter_mut().for_each(ChatSession::clear_received);
        let before = server.usage()?;
        let late = ChatClient::new(Client::connect_narrow(server)?)?;
        let left = format!("* {} left", late.name());
        say_some(&mut here, 0, 2 * LINES)?;
        late.half_close()?;
        chat_session::run_until(&mut here, "the others hearing that one left", |here| {
            here.iter().all(|session| session.received().contains(&left))
        })?;
        back_to(server, before.descriptors, before.memory + 2 * SPARE)
    })
}
