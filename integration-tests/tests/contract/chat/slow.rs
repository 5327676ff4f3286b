//! A client that does not read is disconnected once 256 KiB wait for it; memory stays bounded,
//! and nobody else waits for it. One that reads late has not lost anything.

use anyhow::{Context, Result, ensure};
use integration_tests::client::Reply;
use integration_tests::{Client, Guest, PATIENCE, Running, Server, Talker, gathering, until};

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("never_reads", |server| never_read(server, 1, Client::connect)),
    Case::new("never_reads_through_a_narrow_pipe", |server| {
        never_read(server, 1, Client::connect_narrow)
    }),
    Case::new("twenty_never_read", |server| never_read(server, 20, Client::connect_narrow)),
    Case::new("asks_and_never_reads", asks_and_never_reads),
    Case::new("reads_late", |server| reads_late(server, Leave::Stay)),
    Case::new("reads_late_after_quit", |server| reads_late(server, Leave::Quit)),
    Case::new("reads_late_after_half_close", |server| reads_late(server, Leave::HalfClose)),
    Case::new("leaves_and_never_reads", leaves_and_never_reads),
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
fn say_some(here: &mut [Talker], from: usize, count: usize) -> Result<()> {
    for number in from..from + count {
        here[0].say(&format!("{number:LENGTH$}"));
    }
    let last = format!("{}: {:LENGTH$}", here[0].name(), from + count - 1);
    gathering::run_until(here, "those who read hearing what is said", |here| {
        let up_to_date = |it: &Talker| it.has_ended() || it.heard().contains(&last);
        here[0].has_said_all() && here[1..].iter().all(up_to_date)
    })
    .context("beside one who does not read")?;
    gathering::all_here(here)?;
    for talker in &here[1..] {
        let heard = talker.heard().iter().filter(|line| !line.starts_with("* ")).count();
        ensure!(heard == count, "{} heard {heard} of {count} lines", talker.name());
    }
    Ok(())
}

/// Room for those who talk and read.
fn talkers(running: &Running) -> Result<Vec<Talker>> {
    (0..3).map(|_| Talker::arrive(running)).collect()
}

fn never_read(
    server: &Server,
    count: usize,
    connect: fn(&Running) -> Result<Client>,
) -> Result<()> {
    // All that waits for one, once more in the hands of who writes it, and what an allocator takes.
    let allowed = (count * 2 * BOUND) as u64 + SPARE;
    server.launch().serve(|running| {
        let mut here = talkers(running)?;
        say_some(&mut here, 0, LINES)?;
        here.iter_mut().for_each(Talker::forget);
        let before = running.figures()?;
        let stalled: Vec<_> =
            (0..count).map(|_| Guest::over(connect(running)?)).collect::<Result<_>>()?;

        let mut left: Vec<_> =
            stalled.iter().map(|guest| format!("* {} left", guest.name())).collect();
        let mut said = 0;
        while !left.is_empty() {
            ensure!(
                said * LENGTH < ENOUGH,
                "{} who do not read are still here after {said} lines of {LENGTH} bytes",
                left.len()
            );
            say_some(&mut here, said, LINES)?;
            said += LINES;
            left.retain(|line| !here[1].heard().contains(line));
            here.iter_mut().for_each(Talker::forget);
            let grown = running.figures()?.memory.saturating_sub(before.memory);
            ensure!(grown < allowed, "it took {grown} bytes for {count} who do not read");
        }

        // What they had been sent before is still on its way to them, in order.
        for guest in stalled {
            let mut heard = 0;
            let name = guest.name().to_owned();
            let client = guest.into_client();
            // It may end in mid-line, which is an error of who reads lines.
            while let Ok(Some(line)) = client.line() {
                if !line.starts_with("* ") {
                    let expected = format!("{}: {heard:LENGTH$}", here[0].name());
                    ensure!(line == expected, "{name} did not hear line {heard} as number {heard}");
                    heard += 1;
                }
            }
            ensure!(heard < said, "{name} was to lose lines, and has them all");
            let end = client.expect_or_end(b"").with_context(|| format!("{name} was dropped"))?;
            ensure!(end == Reply::Closed, "{name} was dropped, and heard more");
        }
        // What was freed in between may stay with the allocator: a part of it, not all.
        let kept = 2 * SPARE + (count * BOUND / 4) as u64;
        back_to(running, before.descriptors, before.memory + kept)
    })
}

fn back_to(running: &Running, descriptors: usize, memory: u64) -> Result<()> {
    let mut now = running.figures()?;
    until("the server being as it was", PATIENCE, || {
        now = running.figures()?;
        Ok((now.descriptors <= descriptors && now.memory <= memory).then_some(()))
    })
    .with_context(|| format!("{descriptors} descriptors and {memory} bytes became {now:?}"))
}

/// It is not what others say that it does not read, but the answers to itself.
fn asks_and_never_reads(server: &Server) -> Result<()> {
    const QUESTIONS: usize = 10_000;
    server.launch().serve(|running| {
        let mut here = talkers(running)?;
        let before = running.figures()?;
        let client = Client::connect_narrow(running)?;
        let mut asks = Talker::new(Guest::over(client)?)?.deaf();
        let left = format!("* {} left", asks.name());
        let mut asked = 0;
        loop {
            ensure!(asked * 6 < ENOUGH, "{asked} questions were answered to one who does not read");
            if asks.has_said_all() && !asks.has_ended() {
                (0..QUESTIONS).for_each(|_| asks.say("/who"));
                asked += QUESTIONS;
            }
            here.push(asks);
            let old = here[0].heard().len();
            here[0].say("/who");
            gathering::run_until(&mut here, "an answer beside one who asks", |here| {
                here[0].heard().len() > old
                    && here[0].heard()[old..].iter().any(|line| line.starts_with("* here: "))
            })?;
            asks = here.pop().context("nobody is here")?;
            gathering::all_here(&here)?;
            if here[0].heard().contains(&left) {
                break;
            }
            let grown = running.figures()?.memory.saturating_sub(before.memory);
            let allowed = 2 * BOUND as u64 + SPARE;
            ensure!(grown < allowed, "it took {grown} bytes for one who does not read");
        }
        drop(asks);
        back_to(running, before.descriptors, before.memory + 2 * SPARE)
    })
}

#[derive(Clone, Copy)]
enum Leave {
    Stay,
    Quit,
    HalfClose,
}

/// Most of what may wait waits for one that then reads it, all of it.
fn reads_late(server: &Server, leave: Leave) -> Result<()> {
    const LINES: usize = 200;
    server.launch().serve(|running| {
        let mut here = talkers(running)?;
        let late = Guest::over(Client::connect_narrow(running)?)?;
        let left = format!("* {} left", late.name());
        say_some(&mut here, 0, LINES)?;
        match leave {
            Leave::Stay => {}
            Leave::Quit => late.say("/quit")?,
            Leave::HalfClose => late.half_close()?,
        }
        if !matches!(leave, Leave::Stay) {
            gathering::run_until(&mut here, "the others hearing that one left", |here| {
                here.iter().all(|talker| talker.heard().contains(&left))
            })?;
            // It is no part of this any more.
            here.iter_mut().for_each(Talker::forget);
            say_some(&mut here, LINES, 1)?;
        }
        for number in 0..LINES {
            late.hears(&format!("{}: {number:LENGTH$}", here[0].name()))?;
        }
        match leave {
            Leave::Stay => {
                let names = late.who()?;
                ensure!(names.len() == 4, "{names:?} are here");
                Ok(())
            }
            Leave::Quit => {
                late.hears("* bye")?;
                late.hears_the_end()
            }
            Leave::HalfClose => late.hears_the_end(),
        }
    })
}

/// What is owed to it is not taken, and nobody can wait for that for ever.
fn leaves_and_never_reads(server: &Server) -> Result<()> {
    server.launch().serve(|running| {
        let mut here = talkers(running)?;
        say_some(&mut here, 0, LINES)?;
        here.iter_mut().for_each(Talker::forget);
        let before = running.figures()?;
        let late = Guest::over(Client::connect_narrow(running)?)?;
        let left = format!("* {} left", late.name());
        say_some(&mut here, 0, 2 * LINES)?;
        late.half_close()?;
        gathering::run_until(&mut here, "the others hearing that one left", |here| {
            here.iter().all(|talker| talker.heard().contains(&left))
        })?;
        back_to(running, before.descriptors, before.memory + 2 * SPARE)
    })
}
