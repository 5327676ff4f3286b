//! Idle for IDLE seconds: a goodbye, and the connection is closed. 0 is never.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::chat_client::join_many;
use crate::{ChatClient, Target};

use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("goodbye", goodbye),
    Case::new("silence_counts_from_the_last_word", silence_counts_from_the_last_word),
    Case::new("who_talks_stays", who_talks_stays),
    Case::new("listening_is_idle", listening_is_idle),
    Case::new("two_hundred_at_once", two_hundred_at_once),
    Case::new("never", never),
];

const GOODBYE: &str = "* idle for 1 s, goodbye";
const IDLE: Duration = Duration::from_secs(1);

fn with_idle(target: &Target, idle: &'static str) -> Target {
    target.with_argument(idle)
}

fn goodbye(target: &Target) -> Result<()> {
    with_idle(target, "1").launch().serve(|server| {
        let start = Instant::now();
        let guest = ChatClient::join(server)?;
        guest.expect_line(GOODBYE)?;
        ensure!(start.elapsed() >= IDLE, "it was sent away after {:?}", start.elapsed());
        guest.expect_end()?;
        // Nobody is left.
        let guest = ChatClient::join(server)?;
        guest.expect_names(&[guest.name()])
    })
}

fn silence_counts_from_the_last_word(target: &Target) -> Result<()> {
    with_idle(target, "1").launch().serve(|server| {
        let guest = ChatClient::join(server)?;
        thread::sleep(IDLE / 4);
        let last = Instant::now();
        // A part of a line is a sign of life too.
        guest.send(b"er")?;
        guest.expect_line(GOODBYE)?;
        ensure!(last.elapsed() >= IDLE, "it was sent away {:?} after it spoke", last.elapsed());
        guest.expect_end()
    })
}

/// One talks all the time. Where this machine stops for so long that it is silent itself, that
/// says nothing: then it is tried again.
fn who_talks_stays(target: &Target) -> Result<()> {
    const TRIES: usize = 10;
    with_idle(target, "1").launch().serve(|server| {
        for _ in 0..TRIES {
            let guest = ChatClient::join(server)?;
            let start = Instant::now();
            let (mut last, mut longest) = (start, Duration::ZERO);
            let mut stays = true;
            while stays && start.elapsed() < IDLE + IDLE / 2 {
                thread::sleep(IDLE / 20);
                // The answer shows that the server has read the question.
                stays = guest.who().is_ok();
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            if stays {
                return Ok(());
            }
            ensure!(longest > IDLE / 2, "it was sent away after {longest:?} of silence at most");
        }
        bail!("this machine is too busy to tell")
    })
}

fn listening_is_idle(target: &Target) -> Result<()> {
    with_idle(target, "1").launch().serve(|server| {
        let start = Instant::now();
        let (talks, resume_reading) = (ChatClient::join(server)?, ChatClient::join(server)?);
        talks.expect_line(&format!("* {} joined", resume_reading.name()))?;
        loop {
            talks.send_line("are you there?")?;
            let received = resume_reading.next()?;
            if received == GOODBYE {
                break;
            }
            ensure!(received.ends_with(": are you there?"), "it heard {received:?}");
            ensure!(start.elapsed() < 20 * IDLE, "who only listens is here for ever");
            thread::sleep(IDLE / 20);
        }
        ensure!(start.elapsed() >= IDLE, "it was sent away after {:?}", start.elapsed());
        resume_reading.expect_end()?;
        talks.expect_line(&format!("* {} left", resume_reading.name()))
    })
}

fn two_hundred_at_once(target: &Target) -> Result<()> {
    with_idle(target, "1").launch().serve(|server| {
        let guests = join_many(server, 200)?;
        for guest in &guests {
            loop {
                let line = guest.next()?;
                if line == GOODBYE {
                    break;
                }
                let news = line.ends_with(" joined") || line.ends_with(" left");
                ensure!(news, "{} heard {line:?}", guest.name());
            }
            guest.expect_end()?;
        }
        let last = ChatClient::join(server)?;
        ensure!(last.others() == 0, "{} others are still here", last.others());
        Ok(())
    })
}

fn never(target: &Target) -> Result<()> {
    with_idle(target, "0").launch().serve(|server| {
        let guest = ChatClient::join(server)?;
        thread::sleep(IDLE + IDLE / 4);
        guest.expect_names(&[guest.name()]).context("IDLE is 0")
    })
}
