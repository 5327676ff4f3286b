//! A thousand clients; clients that join and leave while others talk, and that leave in mid-line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::join;
use crate::case::{Case, MANY_DESCRIPTORS};
use crate::chat_client::join_many;
use crate::{ChatClient, ChatSession, Server, Target, chat_session};

pub const CASES: &[Case] = &[
    Case::new("a_thousand", "a thousand clients are in the room", a_thousand)
        .needs(&[MANY_DESCRIPTORS])
        .exclusive(),
    Case::new("sixty_close", "sixty clients close in mid-line", |target| {
        sixty_leave(target, ChatSession::close, false)
    }),
    Case::new("sixty_close_at_once", "sixty clients close at once in mid-line", |target| {
        sixty_leave(target, ChatSession::close, true)
    }),
    Case::new("sixty_reset", "sixty clients reset in mid-line", |target| {
        sixty_leave(target, ChatSession::reset, false)
    }),
    Case::new("sixty_reset_at_once", "sixty clients reset at once in mid-line", |target| {
        sixty_leave(target, ChatSession::reset, true)
    }),
    Case::new("sixty_half_close", "sixty clients half-close in mid-line", |target| {
        sixty_half_close(target, false)
    }),
    Case::new(
        "sixty_half_close_at_once",
        "sixty clients half-close at once in mid-line",
        |target| sixty_half_close(target, true),
    ),
    Case::new("join_and_leave", "clients join and leave while others talk", join_and_leave),
];

fn a_thousand(target: &Target) -> Result<()> {
    const COUNT: usize = 1000;
    target.launch().serve(|server| {
        let clients = join_many(server, COUNT)?;
        let names: Vec<_> = clients.iter().map(|client| client.name().to_owned()).collect();
        let sessions = clients.into_iter().map(ChatSession::new);
        let mut sessions: Vec<_> = sessions.collect::<Result<_>>()?;
        sessions[COUNT / 2].send_line("hello, all of you");
        let hello = format!("{}: hello, all of you", names[COUNT / 2]);
        chat_session::run_until(&mut sessions, "999 clients to receive a line", |sessions| {
            let received = |it: &&ChatSession| it.received().last() == Some(&hello);
            sessions.iter().filter(received).count() == COUNT - 1
        })?;
        for (number, session) in sessions.iter().enumerate() {
            let received = session.received().iter().filter(|line| **line != hello).cloned();
            let joined = names[number + 1..].iter().map(|name| format!("* {name} joined"));
            // The server accepted them, and they joined, in the order in which they connected.
            ensure!(
                received.eq(joined),
                "{} has not received exactly who joined after it",
                session.name()
            );
        }

        sessions[0].clear_received();
        sessions[0].send_line("/who");
        chat_session::run_until(&mut sessions, "a response to /who", |sessions| {
            !sessions[0].received().is_empty()
        })?;
        let all = format!("* here: {}", names.join(", "));
        ensure!(sessions[0].received()[0] == all, "/who does not list the thousand clients");

        let remaining = sessions.swap_remove(0);
        drop(sessions);
        let mut remaining = [remaining];
        chat_session::run_until(
            &mut remaining,
            "a client to receive that 999 left",
            |remaining| {
                let lines = remaining[0].received().iter();
                lines.filter(|line| line.ends_with(" left")).count() == COUNT - 1
            },
        )?;
        let new = ChatClient::join(server)?;
        ensure!(new.others() == 1, "after 999 left, {} others are in the room", new.others());
        new.expect_names(&[remaining[0].name(), new.name()])
    })
}

const SIXTY: usize = 60;
/// What each of the clients that stay sends meanwhile.
const LINES: usize = 20;
const PART: &str = "in the middle of a li";

/// Sixty clients. Each has sent part of a line, and received who joined after it.
fn join_sixty(server: &Server) -> Result<Vec<ChatSession>> {
    let clients = join_many(server, SIXTY)?;
    let mut sixty: Vec<_> = clients.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
    chat_session::run_until(&mut sixty, "sixty clients to receive who joined", |sixty| {
        let lines: usize = sixty.iter().map(|session| session.received().len()).sum();
        lines >= SIXTY * (SIXTY - 1) / 2
    })?;
    sixty.iter().try_for_each(|session| session.send_now(PART.as_bytes()))?;
    Ok(sixty)
}

fn sixty_leave(target: &Target, leave: fn(ChatSession) -> Result<()>, at_once: bool) -> Result<()> {
    leaving(target, at_once, |sixty| sixty.drain(..).try_for_each(leave))?;
    Ok(())
}

/// Their unterminated lines count.
fn sixty_half_close(target: &Target, at_once: bool) -> Result<()> {
    let lines =
        leaving(target, at_once, |sixty| sixty.iter().try_for_each(ChatSession::half_close))?;
    for (name, count) in lines {
        ensure!(count == 1, "the unterminated line of {name} was sent {count} times");
    }
    Ok(())
}

/// Sixty clients leave, while three talk. Returns how often the unterminated line of each was sent.
fn leaving(
    target: &Target,
    at_once: bool,
    leave: impl Fn(&mut Vec<ChatSession>) -> Result<()>,
) -> Result<BTreeMap<String, usize>> {
    let mut unterminated = BTreeMap::new();
    target.launch().serve(|server| {
        let stay = join::<3>(server)?;
        let mut sixty = join_sixty(server)?;
        let names: Vec<_> = sixty.iter().map(|session| session.name().to_owned()).collect();
        let mut stay: Vec<_> = stay.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
        chat_session::run_until(&mut stay, "three clients to receive that sixty joined", |stay| {
            stay.iter().all(|session| session.received().len() >= SIXTY)
        })?;
        stay.iter_mut().for_each(ChatSession::clear_received);
        for session in &mut stay {
            (0..LINES).for_each(|number| session.send_line(&format!("line {number}")));
        }
        if at_once {
            server.while_stopped(|| leave(&mut sixty))?;
        } else {
            leave(&mut sixty)?;
        }

        let what = "three clients to receive each other's lines, and that sixty left";
        chat_session::run_until(&mut stay, what, |stay| {
            stay.iter().all(|session| {
                let lines = |part: &str| {
                    session.received().iter().filter(|line| line.contains(part)).count()
                };
                lines(" left") >= SIXTY && lines(": line ") >= LINES * 2
            })
        })?;
        // Those that half-closed receive EOF.
        chat_session::run_until(&mut sixty, "the connections of sixty clients to end", |sixty| {
            sixty.iter().all(ChatSession::has_ended)
        })?;
        for session in &mut stay {
            session.send_line("/who");
        }
        let names_left: Vec<_> = stay.iter().map(ChatSession::name).collect();
        let here = format!("* here: {}", names_left.join(", "));
        chat_session::run_until(&mut stay, "/who to list the three clients left", |stay| {
            stay.iter().all(|session| session.received().last() == Some(&here))
        })
        .with_context(|| {
            let last: Vec<_> = stay.iter().map(|session| session.received().last()).collect();
            format!("they received last: {last:?}")
        })?;
        let reference = stay[0].received().to_vec();
        for name in &names {
            let line = format!("{name}: {PART}");
            let left = format!("* {name} left");
            for session in &stay {
                let received = session.received();
                let position = |text: &String| received.iter().position(|line| line == text);
                let count = received.iter().filter(|&it| *it == left).count();
                ensure!(count == 1, "{name} left {count} times");
                ensure!(
                    position(&line).is_none_or(|line| Some(line) < position(&left)),
                    "a line of {name} arrived after it left"
                );
            }
            let count = reference.iter().filter(|it| **it == line).count();
            unterminated.insert(name.clone(), count);
        }
        let lines = reference.iter().filter(|line| line.contains(": line ")).count();
        ensure!(lines == LINES * 2, "{lines} of {} lines arrived", LINES * 2);
        let new = ChatClient::join(server)?;
        ensure!(new.others() == 3, "after sixty left, {} others are in the room", new.others());
        Ok(())
    })?;
    Ok(unterminated)
}

/// Three clients talk. Meanwhile others join, send a line, and leave, in every way there is.
fn join_and_leave(target: &Target) -> Result<()> {
    const ROUNDS: usize = 10;
    const GROUP: usize = 20;
    target.launch().serve(|server| {
        let stay = join::<3>(server)?;
        let mut stay: Vec<_> = stay.into_iter().map(ChatSession::new).collect::<Result<_>>()?;
        for round in 0..ROUNDS {
            for session in &mut stay {
                (0..10).for_each(|number| session.send_line(&format!("{number} in round {round}")));
            }
            for (number, client) in join_many(server, GROUP)?.into_iter().enumerate() {
                client.send_line("I cannot stay")?;
                client.send(b"I")?;
                match number % 4 {
                    0 => client.reset()?,
                    1 => client.half_close()?,
                    2 => client.send_line("/quit")?,
                    _ => {}
                }
            }
            chat_session::run_until(&mut stay, "three clients to receive their lines", |stay| {
                stay.iter().all(|session| {
                    let lines = session.received().iter();
                    lines.filter(|it| it.contains(" in round ")).count() >= 20 * (round + 1)
                })
            })?;
        }
        chat_session::run_until(&mut stay, "three clients to receive that all left", |stay| {
            stay.iter().all(|session| {
                let lines = session.received().iter();
                lines.filter(|line| line.ends_with(" left")).count() >= ROUNDS * GROUP
            })
        })?;
        for session in &stay {
            check_presence(session.received()).with_context(|| session.name().to_owned())?;
        }
        let last = ChatClient::join(server)?;
        ensure!(last.others() == 3, "after all left, {} others are in the room", last.others());
        Ok(())
    })
}

/// Checks that each client joined once and then left once, and sent lines in between only.
fn check_presence(lines: &[String]) -> Result<()> {
    let mut present = BTreeMap::new();
    for line in lines {
        let event = line.strip_prefix("* ");
        if let Some(name) = event.and_then(|event| event.strip_suffix(" joined")) {
            ensure!(present.insert(name, true).is_none(), "{name} joined twice");
        } else if let Some(name) = event.and_then(|event| event.strip_suffix(" left")) {
            ensure!(present.insert(name, false) == Some(true), "{name} left, but was not there");
        } else if let Some((name, _)) = line.split_once(": I") {
            ensure!(present.get(name) == Some(&true), "{name} sent a line, but was not there");
        }
    }
    let remaining: Vec<_> = present.iter().filter(|(_, present)| **present).collect();
    ensure!(remaining.is_empty(), "{remaining:?} have not left");
    Ok(())
}
