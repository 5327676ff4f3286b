//! Everyone sees the lines of the room in the same order; none is lost or doubled.

use anyhow::{Context, Result, ensure};

use crate::{ChatSession, Server, Target, chat_session};

use super::with_guests;
use crate::Case;

pub const CASES: &[Case] = &[
    Case::new("two_by_1000", |target| {
        all_at_once(target, &Talk { sessions: 2, lines: 1000, ..TALK })
    }),
    Case::new("twelve_by_150", |target| {
        all_at_once(target, &Talk { sessions: 12, lines: 150, rounds: 3, ..TALK })
    }),
    Case::new("forty_by_100", |target| {
        all_at_once(target, &Talk { sessions: 40, lines: 100, ..TALK })
    }),
    Case::new("in_small_parts", |target| {
        all_at_once(target, &Talk { sessions: 12, lines: 50, part: Some(40), ..TALK })
    }),
    Case::new("in_changing_names", |target| {
        all_at_once(target, &Talk { sessions: 12, lines: 100, names: true, ..TALK })
    }),
    Case::new("answers", answers),
];

/// So many talk at once.
pub struct Talk {
    pub sessions: usize,
    /// So many lines each says in a round. All talkers' lines together are less than may wait for
    /// one of them: whoever comes late to listening hears them all.
    pub lines: usize,
    /// When everybody has heard everything, the next round begins.
    pub rounds: usize,
    /// Sent in parts of at most so many bytes.
    pub part: Option<usize>,
    /// Whether they take other names in between.
    pub names: bool,
}

pub const TALK: Talk = Talk { sessions: 0, lines: 0, rounds: 1, part: None, names: false };

fn all_at_once(target: &Target, talk: &Talk) -> Result<()> {
    target.launch().serve(|server| all_at_once_in(server, talk, |_, _| Ok(())))
}

/// Runs it; `meanwhile` is called with how much of a round has been heard, in eighths.
pub fn all_at_once_in(
    server: &Server,
    talk: &Talk,
    meanwhile: impl Fn(&Server, usize) -> Result<()>,
) -> Result<()> {
    // One who only listens hears everything, and so what the order is.
    let mut here = (0..=talk.sessions)
        .map(|seed| {
            let session = ChatSession::join(server)?;
            Ok(match talk.part {
                Some(part) => session.in_parts(part, seed as u64),
                None => session,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let last = here.len() - 1;
    // Each hears of everyone who comes after it.
    chat_session::run_until(&mut here, "everybody hearing who joined", |here| {
        (0..).zip(here).all(|(number, session)| session.received().len() >= last - number)
    })?;
    here.iter_mut().for_each(ChatSession::clear_received);

    for round in 0..talk.rounds {
        let mut sent = vec![Vec::new(); here.len()];
        for (number, session) in here.iter_mut().enumerate().take(last) {
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
        let all: usize = sent.iter().map(Vec::len).sum();
        for eighth in 1..=8 {
            chat_session::run_until(&mut here, "everybody hearing everything", |here| {
                let enough = |session: &ChatSession| {
                    session.received().len() >= talk.expect_line(all) * eighth / 8
                };
                here.iter().all(|session| session.has_ended() || enough(session))
            })?;
            chat_session::expect_all_connected(&here)?;
            meanwhile(server, eighth)?;
        }
        // What comes once too often comes before this.
        for session in &mut here {
            session.send_line("/who");
        }
        chat_session::run_until(&mut here, "an answer to everybody's /who", |here| {
            let answered = |line: &String| line.starts_with("* here: ");
            here.iter().all(|session| session.received().last().is_some_and(answered))
        })?;
        check(&here, &sent)?;
        here.iter_mut().for_each(ChatSession::clear_received);
    }
    Ok(())
}

impl Talk {
    /// How many lines a talker hears, of so many; at least.
    fn expect_line(&self, all: usize) -> usize {
        all - self.lines
    }
}

fn new_name(number: usize, line: usize) -> String {
    format!("n{number}-{line}")
}

/// Of many lengths, and not the same twice.
fn text(number: usize, line: usize) -> String {
    format!("line {line} of {number}: {}", "日x".repeat((number * 7 + line * 3) % 10))
}

/// Everybody has heard the lines that were said by others (and of its own, its new names), in the
/// order in which the last one, who only listened, heard them all.
fn check(here: &[ChatSession], sent: &[Vec<String>]) -> Result<()> {
    let (_, reference) =
        here[here.len() - 1].received().split_last().context("it heard nothing")?;
    let mut next = vec![0; sent.len()];
    let mut whose = Vec::with_capacity(reference.len());
    for line in reference {
        let speaker = (0..sent.len()).find(|&number| sent[number].get(next[number]) == Some(line));
        let speaker = speaker.with_context(|| {
            format!("{line:?} came, which nobody was to say next: lost, doubled or out of order")
        })?;
        next[speaker] += 1;
        whose.push(speaker);
    }
    for (sent, received) in sent.iter().zip(next) {
        ensure!(sent.len() == received, "{:?} was not heard by who listened", sent[received]);
    }
    for (number, session) in here.iter().enumerate() {
        let (_, received) = session.received().split_last().context("one heard nothing")?;
        let mut received = received.iter();
        let not_its_own =
            |&(line, speaker): &(&String, usize)| speaker != number || line.starts_with("* ");
        for (expected, _) in reference.iter().zip(whose.iter().copied()).filter(not_its_own) {
            let line = received.next();
            ensure!(
                line == Some(expected),
                "{} heard {line:?} where who listened heard {expected:?}",
                session.name()
            );
        }
        let surplus = received.next();
        ensure!(surplus.is_none(), "{} heard {surplus:?} at the end", session.name());
    }
    Ok(())
}

/// Whoever answers has heard the question: so nobody hears the answer before it.
fn answers(target: &Target) -> Result<()> {
    with_guests(target, |_, [a, b, c, d]| {
        for number in 0..200 {
            a.send_line(&format!("question {number}"))?;
            b.expect_line(&format!("guest1: question {number}"))?;
            b.send_line(&format!("answer {number}"))?;
            a.expect_line(&format!("guest2: answer {number}"))?;
            for other in [&c, &d] {
                other.expect_line(&format!("guest1: question {number}"))?;
                other.expect_line(&format!("guest2: answer {number}"))?;
            }
        }
        Ok(())
    })
}
