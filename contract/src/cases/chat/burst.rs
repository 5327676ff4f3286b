//! A thousand guests; guests who come and go while others talk, and who leave in mid-sentence.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::chat_client::join_many;
use crate::{ChatClient, ChatSession, Server, Target, chat_session};

use super::room;
use crate::case::{Case, too_few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("a_thousand", a_thousand).unavailable(too_few_descriptors).exclusive(),
    Case::new("sixty_close", |target| sixty_leave(target, ChatSession::close, false)),
    Case::new("sixty_close_in_one_moment", |target| sixty_leave(target, ChatSession::close, true)),
    Case::new("sixty_reset", |target| sixty_leave(target, ChatSession::reset, false)),
    Case::new("sixty_reset_in_one_moment", |target| sixty_leave(target, ChatSession::reset, true)),
    Case::new("sixty_half_close", |target| sixty_half_close(target, false)),
    Case::new("sixty_half_close_in_one_moment", |target| sixty_half_close(target, true)),
    Case::new("come_and_go", come_and_go),
];

fn a_thousand(target: &Target) -> Result<()> {
    const COUNT: usize = 1000;
    target.launch().serve(|server| {
        let guests = join_many(server, COUNT)?;
        let names: Vec<_> = guests.iter().map(|guest| guest.name().to_owned()).collect();
        let mut here: Vec<_> = guests.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
        here[COUNT / 2].send_line("hello, all of you");
        let hello = format!("{}: hello, all of you", names[COUNT / 2]);
        let others = |here: &[ChatSession]| {
            let received = |session: &&ChatSession| session.received().last() == Some(&hello);
            here.iter().filter(received).count()
        };
        chat_session::run_until(&mut here, "999 hearing what one says", |here| {
            others(here) == COUNT - 1
        })?;
        for (number, session) in here.iter().enumerate() {
            let received = session.received().iter().filter(|line| **line != hello).cloned();
            let joined = names[number + 1..].iter().map(|name| format!("* {name} joined"));
            // They were accepted, and joined, in the order in which they connected.
            ensure!(received.eq(joined), "{} has not heard just who came after it", session.name());
        }

        here[0].clear_received();
        here[0].send_line("/who");
        chat_session::run_until(&mut here, "an answer to /who", |here| {
            !here[0].received().is_empty()
        })?;
        let all = format!("* here: {}", names.join(", "));
        ensure!(here[0].received()[0] == all, "/who does not show the thousand");

        let stays = here.swap_remove(0);
        drop(here);
        let mut stays = [stays];
        chat_session::run_until(&mut stays, "one hearing that 999 left", |stays| {
            stays[0].received().iter().filter(|line| line.ends_with(" left")).count() == COUNT - 1
        })?;
        let new = ChatClient::join(server)?;
        ensure!(new.others() == 1, "after 999 had left there were {} others", new.others());
        new.expect_names(&[stays[0].name(), new.name()])
    })
}

const SIXTY: usize = 60;
/// What each of those who stay says meanwhile.
const LINES: usize = 20;
const SENTENCE: &str = "in the middle of a sen";

/// Sixty guests, each of whom has sent a part of a line, and heard everybody join.
fn sixty(server: &Server) -> Result<Vec<ChatSession>> {
    let guests = join_many(server, SIXTY)?;
    let mut sixty: Vec<_> = guests.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
    chat_session::run_until(&mut sixty, "all of sixty hearing each other join", |sixty| {
        sixty.iter().map(|session| session.received().len()).sum::<usize>()
            >= SIXTY * (SIXTY - 1) / 2
    })?;
    sixty.iter().try_for_each(|session| session.send_now(SENTENCE.as_bytes()))?;
    Ok(sixty)
}

fn sixty_leave(
    target: &Target,
    leave: fn(ChatSession) -> Result<()>,
    in_one_moment: bool,
) -> Result<()> {
    leaving(target, in_one_moment, |sixty| sixty.drain(..).try_for_each(leave))?;
    Ok(())
}

/// Their half sentences count, as they do not wait for anything else.
fn sixty_half_close(target: &Target, in_one_moment: bool) -> Result<()> {
    let received =
        leaving(target, in_one_moment, |sixty| sixty.iter().try_for_each(ChatSession::half_close))?;
    for (name, sent) in received {
        ensure!(sent == 1, "{name}'s half sentence was heard {sent} times");
    }
    Ok(())
}

/// Sixty leave, and three talk on. How often each one's half sentence was heard.
fn leaving(
    target: &Target,
    in_one_moment: bool,
    leave: impl Fn(&mut Vec<ChatSession>) -> Result<()>,
) -> Result<BTreeMap<String, usize>> {
    let mut received = BTreeMap::new();
    target.launch().serve(|server| {
        let stay = room::<3>(server)?;
        let mut sixty = sixty(server)?;
        let names: Vec<_> = sixty.iter().map(|session| session.name().to_owned()).collect();
        let mut stay: Vec<_> = stay.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
        chat_session::run_until(&mut stay, "three hearing sixty join", |stay| {
            stay.iter().all(|session| session.received().len() >= SIXTY)
        })?;
        stay.iter_mut().for_each(ChatSession::clear_received);
        for session in &mut stay {
            (0..LINES).for_each(|number| session.send_line(&format!("line {number}")));
        }
        if in_one_moment {
            server.while_stopped(|| leave(&mut sixty))?;
        } else {
            leave(&mut sixty)?;
        }

        chat_session::run_until(&mut stay, "three hearing sixty leave, and each other", |stay| {
            stay.iter().all(|session| {
                let count =
                    |part: &str| session.received().iter().filter(|l| l.contains(part)).count();
                count(" left") >= SIXTY && count(": line ") >= LINES * 2
            })
        })?;
        // Those who half-closed hear the end.
        chat_session::run_until(&mut sixty, "those who left being closed", |sixty| {
            sixty.iter().all(ChatSession::has_ended)
        })?;
        for session in &mut stay {
            session.send_line("/who");
        }
        let here: Vec<_> = stay.iter().map(ChatSession::name).collect();
        let here = format!("* here: {}", here.join(", "));
        chat_session::run_until(&mut stay, "three being told that three are here", |stay| {
            stay.iter().all(|session| session.received().last() == Some(&here))
        })
        .with_context(|| {
            let told: Vec<_> = stay.iter().map(|session| session.received().last()).collect();
            format!("they heard last: {told:?}")
        })?;
        let reference = stay[0].received().to_vec();
        for name in &names {
            let sent = format!("{name}: {SENTENCE}");
            let left = format!("* {name} left");
            for session in &stay {
                let position =
                    |text: &String| session.received().iter().position(|line| line == text);
                let count =
                    |text: &String| session.received().iter().filter(|&l| l == text).count();
                ensure!(count(&left) == 1, "{name} left {} times", count(&left));
                ensure!(
                    position(&sent).is_none_or(|sent| Some(sent) < position(&left)),
                    "{name} was heard after it had left"
                );
            }
            let count = reference.iter().filter(|line| **line == sent).count();
            received.insert(name.clone(), count);
        }
        let lines = reference.iter().filter(|line| line.contains(": line ")).count();
        ensure!(lines == LINES * 2, "who stayed heard {lines} lines of {}", LINES * 2);
        // And the door is open.
        let new = ChatClient::join(server)?;
        ensure!(new.others() == 3, "after sixty had left there were {} others", new.others());
        Ok(())
    })?;
    Ok(received)
}

/// Three talk; meanwhile others come, say something, and go, in every way there is.
fn come_and_go(target: &Target) -> Result<()> {
    const WAVES: usize = 10;
    const WAVE: usize = 20;
    target.launch().serve(|server| {
        let stay = room::<3>(server)?;
        let mut stay: Vec<_> = stay.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
        for wave in 0..WAVES {
            for session in &mut stay {
                (0..10).for_each(|number| session.send_line(&format!("{number} in wave {wave}")));
            }
            for (number, guest) in join_many(server, WAVE)?.into_iter().enumerate() {
                guest.send_line("I cannot stay")?;
                guest.send(b"I")?;
                match number % 4 {
                    0 => guest.reset()?,
                    1 => guest.half_close()?,
                    2 => guest.send_line("/quit")?,
                    _ => {}
                }
            }
            chat_session::run_until(&mut stay, "three hearing each other", |stay| {
                let count = |session: &ChatSession| {
                    session.received().iter().filter(|line| line.contains(" in wave ")).count()
                };
                stay.iter().all(|session| count(session) >= 20 * (wave + 1))
            })?;
        }
        chat_session::run_until(&mut stay, "three hearing all leave", |stay| {
            let left = |session: &ChatSession| {
                session.received().iter().filter(|line| line.ends_with(" left")).count()
            };
            stay.iter().all(|session| left(session) >= WAVES * WAVE)
        })?;
        for session in &stay {
            balanced(session.received()).with_context(|| session.name().to_owned())?;
        }
        let last = ChatClient::join(server)?;
        ensure!(last.others() == 3, "after all had left there were {} others", last.others());
        Ok(())
    })
}

/// Everybody joined once, then left once, and was heard in between only.
fn balanced(received: &[String]) -> Result<()> {
    let mut here = BTreeMap::new();
    for line in received {
        if let Some(name) = line.strip_prefix("* ").and_then(|line| line.strip_suffix(" joined")) {
            ensure!(here.insert(name, true).is_none(), "{name} joined twice");
        } else if let Some(name) =
            line.strip_prefix("* ").and_then(|line| line.strip_suffix(" left"))
        {
            ensure!(here.insert(name, false) == Some(true), "{name} left and was not here");
        } else if let Some((name, _)) = line.split_once(": I") {
            ensure!(here.get(name) == Some(&true), "{name} was heard and was not here");
        }
    }
    let ghosts: Vec<_> = here.iter().filter(|(_, here)| **here).collect();
    ensure!(ghosts.is_empty(), "{ghosts:?} have not left");
    Ok(())
}
