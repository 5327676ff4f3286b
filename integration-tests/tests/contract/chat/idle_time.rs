//! Idle for IDLE seconds: a goodbye, and the connection is closed. 0 is never.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::guest::crowd;
use integration_tests::{Guest, Server};

use crate::case::Case;

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

fn with_idle(server: &Server, idle: &'static str) -> Server {
    Server { argument: Some(idle), ..*server }
}

fn goodbye(server: &Server) -> Result<()> {
    with_idle(server, "1").launch().serve(|running| {
        let start = Instant::now();
        let guest = Guest::arrive(running)?;
        guest.hears(GOODBYE)?;
        ensure!(start.elapsed() >= IDLE, "it was sent away after {:?}", start.elapsed());
        guest.hears_the_end()?;
        // Nobody is left.
        let guest = Guest::arrive(running)?;
        guest.sees(&[guest.name()])
    })
}

fn silence_counts_from_the_last_word(server: &Server) -> Result<()> {
    with_idle(server, "1").launch().serve(|running| {
        let guest = Guest::arrive(running)?;
        thread::sleep(IDLE / 4);
        let last = Instant::now();
        // A part of a line is a sign of life too.
        guest.send(b"er")?;
        guest.hears(GOODBYE)?;
        ensure!(last.elapsed() >= IDLE, "it was sent away {:?} after it spoke", last.elapsed());
        guest.hears_the_end()
    })
}

/// One talks all the time. Where this machine stops for so long that it is silent itself, that
/// says nothing: then it is tried again.
fn who_talks_stays(server: &Server) -> Result<()> {
    const TRIES: usize = 10;
    with_idle(server, "1").launch().serve(|running| {
        for _ in 0..TRIES {
            let guest = Guest::arrive(running)?;
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

fn listening_is_idle(server: &Server) -> Result<()> {
    with_idle(server, "1").launch().serve(|running| {
        let start = Instant::now();
        let (talks, listens) = (Guest::arrive(running)?, Guest::arrive(running)?);
        talks.hears(&format!("* {} joined", listens.name()))?;
        loop {
            talks.say("are you there?")?;
            let heard = listens.next()?;
            if heard == GOODBYE {
                break;
            }
            ensure!(heard.ends_with(": are you there?"), "it heard {heard:?}");
            ensure!(start.elapsed() < 20 * IDLE, "who only listens is here for ever");
            thread::sleep(IDLE / 20);
        }
        ensure!(start.elapsed() >= IDLE, "it was sent away after {:?}", start.elapsed());
        listens.hears_the_end()?;
        talks.hears(&format!("* {} left", listens.name()))
    })
}

fn two_hundred_at_once(server: &Server) -> Result<()> {
    with_idle(server, "1").launch().serve(|running| {
        let guests = crowd(running, 200)?;
        for guest in &guests {
            loop {
                let line = guest.next()?;
                if line == GOODBYE {
                    break;
                }
                let news = line.ends_with(" joined") || line.ends_with(" left");
                ensure!(news, "{} heard {line:?}", guest.name());
            }
            guest.hears_the_end()?;
        }
        let last = Guest::arrive(running)?;
        ensure!(last.others() == 0, "{} others are still here", last.others());
        Ok(())
    })
}

fn never(server: &Server) -> Result<()> {
    with_idle(server, "0").launch().serve(|running| {
        let guest = Guest::arrive(running)?;
        thread::sleep(IDLE + IDLE / 4);
        guest.sees(&[guest.name()]).context("IDLE is 0")
    })
}
