//! All clients receive the lines of the room in the same order. No line is lost or duplicated.

use anyhow::{Context, Result, ensure};

use super::with_clients;
use crate::{Case, ChatSession, Server, Target, chat_session};

pub const CASES: &[Case] = &[
    Case::new("two_by_1000", "two clients send 1000 lines each", |target| {
        all_send(target, &Talk { senders: 2, lines: 1000, ..TALK })
    }),
    Case::new("twelve_by_150", "twelve clients send 150 lines each, three times", |target| {
        all_send(target, &Talk { senders: 12, lines: 150, rounds: 3, ..TALK })
    }),
    Case::new("forty_by_100", "forty clients send 100 lines each", |target| {
        all_send(target, &Talk { senders: 40, lines: 100, ..TALK })
    }),
    Case::new("in_small_parts", "twelve clients send 50 lines each in small parts", |target| {
        all_send(target, &Talk { senders: 12, lines: 50, part: Some(40), ..TALK })
    }),
    Case::new("in_changing_names", "twelve clients change their names between lines", |target| {
        all_send(target, &Talk { senders: 12, lines: 100, names: true, ..TALK })
    }),
    Case::new("replies", "no client receives a reply before the line it replies to", replies),
];

/// Several clients that send lines at the same time.
pub struct Talk {
    pub senders: usize,
    /// Lines per sender and round. The lines of all senders together are less than the output that
    /// may be pending for one client, so a client that reads late still receives all of them.
    pub lines: usize,
    /// The next round starts when every client has received everything.
    pub rounds: usize,
    /// The largest part to send at once.
    pub part: Option<usize>,
    /// Whether the senders change their names between lines.
    pub names: bool,
}

pub const TALK: Talk = Talk { senders: 0, lines: 0, rounds: 1, part: None, names: false };

fn all_send(target: &Target, talk: &Talk) -> Result<()> {
    target.launch().serve(|server| run(server, talk, |_| Ok(())))
}

/// Runs the talk. Calls `meanwhile` after each eighth of a round.
pub fn run(server: &Server, talk: &Talk, meanwhile: impl Fn(&Server) -> Result<()>) -> Result<()> {
    // The last client only receives. The order in which it does is the reference.
    let mut sessions = (0..=talk.senders)
        .map(|seed| {
            let session = ChatSession::join(server)?;
            Ok(match talk.part {
                Some(part) => session.in_parts(part, seed as u64),
                None => session,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let last = sessions.len() - 1;
    // Each client receives a line about every client that joins after it.
    chat_session::run_until(&mut sessions, "all clients to receive who joined", |sessions| {
        (0..).zip(sessions).all(|(number, session)| session.received().len() >= last - number)
    })?;
    sessions.iter_mut().for_each(ChatSession::clear_received);

    for round in 0..talk.rounds {
        let mut sent = vec![Vec::new(); sessions.len()];
        for (number, session) in sessions.iter_mut().enumerate().take(last) {
            let mut name = session.name().to_owned();
            if round > 0 && talk.names {
                name = new_name(number, talk.lines);
            }
            for line in 0..talk.lines {
                if talk.names && line % 10 == 9 {
                    let new = new_name(number, line);
                    session.send_line(&format!("/nick {new}"));
                    sent[number].push(format!("* {name} is now {new}"));
                    name = new;
                } else {
                    let text = text(number, line);
                    session.send_line(&text);
                    sent[number].push(format!("{name}: {text}"));
                }
            }
        }
        // A sender does not receive its own lines.
        let expected = sent.iter().map(Vec::len).sum::<usize>() - talk.lines;
        for eighth in 1..=8 {
            chat_session::run_until(
                &mut sessions,
                "all clients to receive all lines",
                |sessions| {
                    sessions.iter().all(|session| {
                        session.has_ended() || session.received().len() >= expected * eighth / 8
                    })
                },
            )?;
            chat_session::expect_all_connected(&sessions)?;
            meanwhile(server)?;
        }
        // A line that was duplicated arrives before the response to this.
        for session in &mut sessions {
            session.send_line("/who");
        }
        chat_session::run_until(&mut sessions, "a response to every /who", |sessions| {
            let is_response = |line: &String| line.starts_with("* here: ");
            sessions.iter().all(|session| session.received().last().is_some_and(is_response))
        })?;
        check(&sessions, &sent)?;
        sessions.iter_mut().for_each(ChatSession::clear_received);
    }
    Ok(())
}

fn new_name(number: usize, line: usize) -> String {
    format!("n{number}-{line}")
}

/// Lines of many lengths, each of them different.
fn text(number: usize, line: usize) -> String {
    format!("line {line} of {number}: {}", "日x".repeat((number * 7 + line * 3) % 10))
}

/// Checks that each client has received the lines of the others (and its own new names) in the
/// order in which the last client has received them.
fn check(sessions: &[ChatSession], sent: &[Vec<String>]) -> Result<()> {
    let reference = sessions[sessions.len() - 1].received();
    let (_, reference) = reference.split_last().context("it received nothing")?;
    let mut next = vec![0; sent.len()];
    let mut senders = Vec::with_capacity(reference.len());
    for line in reference {
        let sender = (0..sent.len()).find(|&number| sent[number].get(next[number]) == Some(line));
        let sender = sender.with_context(|| {
            format!("{line:?} was nobody's next line: a line is lost, duplicated or out of order")
        })?;
        next[sender] += 1;
        senders.push(sender);
    }
    for (sent, received) in sent.iter().zip(next) {
        ensure!(sent.len() == received, "{:?} did not arrive", sent[received]);
    }
    for (number, session) in sessions.iter().enumerate() {
        let (_, received) = session.received().split_last().context("it received nothing")?;
        let mut received = received.iter();
        for (expected, &sender) in reference.iter().zip(&senders) {
            if sender == number && !expected.starts_with("* ") {
                continue;
            }
            let line = received.next();
            ensure!(
                line == Some(expected),
                "{} received {line:?}, but another client received {expected:?} at this place",
                session.name()
            );
        }
        let surplus = received.next();
        ensure!(surplus.is_none(), "{} received {surplus:?} at the end", session.name());
    }
    Ok(())
}

/// A client that replies has received the line, so no other client receives the reply first.
fn replies(target: &Target) -> Result<()> {
    with_clients(target, |_, [a, b, c, d]| {
        for number in 0..200 {
            a.send_line(&format!("question {number}"))?;
            b.expect_line(&format!("guest1: question {number}"))?;
            b.send_line(&format!("reply {number}"))?;
            a.expect_line(&format!("guest2: reply {number}"))?;
            for other in [&c, &d] {
                other.expect_line(&format!("guest1: question {number}"))?;
                other.expect_line(&format!("guest2: reply {number}"))?;
            }
        }
        Ok(())
    })
}
