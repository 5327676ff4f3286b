//! Everyone sees the lines of the room in the same order; none is lost or doubled.

use anyhow::{Context, Result, ensure};
use integration_tests::{Running, Server, Talker, gathering};

use super::with_guests;
use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new("two_by_1000", |server| {
        all_at_once(server, &Talk { talkers: 2, lines: 1000, ..TALK })
    }),
    Case::new("twelve_by_150", |server| {
        all_at_once(server, &Talk { talkers: 12, lines: 150, rounds: 3, ..TALK })
    }),
    Case::new("forty_by_100", |server| {
        all_at_once(server, &Talk { talkers: 40, lines: 100, ..TALK })
    }),
    Case::new("in_small_parts", |server| {
        all_at_once(server, &Talk { talkers: 12, lines: 50, part: Some(40), ..TALK })
    }),
    Case::new("in_changing_names", |server| {
        all_at_once(server, &Talk { talkers: 12, lines: 100, names: true, ..TALK })
    }),
    Case::new("answers", answers),
];

/// So many talk at once.
pub struct Talk {
    pub talkers: usize,
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

pub const TALK: Talk = Talk { talkers: 0, lines: 0, rounds: 1, part: None, names: false };

fn all_at_once(server: &Server, talk: &Talk) -> Result<()> {
    server.launch().serve(|running| all_at_once_in(running, talk, |_, _| Ok(())))
}

/// Runs it; `meanwhile` is called with how much of a round has been heard, in eighths.
pub fn all_at_once_in(
    running: &Running,
    talk: &Talk,
    meanwhile: impl Fn(&Running, usize) -> Result<()>,
) -> Result<()> {
    // One who only listens hears everything, and so what the order is.
    let mut here = (0..=talk.talkers)
        .map(|seed| {
            let talker = Talker::arrive(running)?;
            Ok(match talk.part {
                Some(part) => talker.in_parts(part, seed as u64),
                None => talker,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let last = here.len() - 1;
    // Each hears of everyone who comes after it.
    gathering::run_until(&mut here, "everybody hearing who joined", |here| {
        (0..).zip(here).all(|(number, talker)| talker.heard().len() >= last - number)
    })?;
    here.iter_mut().for_each(Talker::forget);

    for round in 0..talk.rounds {
        let mut said = vec![Vec::new(); here.len()];
        for (number, talker) in here.iter_mut().enumerate().take(last) {
            let mut name = talker.name().to_owned();
            if round > 0 && talk.names {
                name = new_name(number, talk.lines);
            }
            for line in 0..talk.lines {
                if talk.names && line % 10 == 9 {
                    let new = new_name(number, line);
                    talker.say(&format!("/nick {new}"));
                    said[number].push(format!("* {name} is now {new}"));
                    name = new;
                } else {
                    let text = text(number, line);
                    talker.say(&text);
                    said[number].push(format!("{name}: {text}"));
                }
            }
        }
        let all: usize = said.iter().map(Vec::len).sum();
        for eighth in 1..=8 {
            gathering::run_until(&mut here, "everybody hearing everything", |here| {
                let enough = |talker: &Talker| talker.heard().len() >= talk.hears(all) * eighth / 8;
                here.iter().all(|talker| talker.has_ended() || enough(talker))
            })?;
            gathering::all_here(&here)?;
            meanwhile(running, eighth)?;
        }
        // What comes once too often comes before this.
        for talker in &mut here {
            talker.say("/who");
        }
        gathering::run_until(&mut here, "an answer to everybody's /who", |here| {
            let answered = |line: &String| line.starts_with("* here: ");
            here.iter().all(|talker| talker.heard().last().is_some_and(answered))
        })?;
        check(&here, &said)?;
        here.iter_mut().for_each(Talker::forget);
    }
    Ok(())
}

impl Talk {
    /// How many lines a talker hears, of so many; at least.
    fn hears(&self, all: usize) -> usize {
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
fn check(here: &[Talker], said: &[Vec<String>]) -> Result<()> {
    let (_, reference) = here[here.len() - 1].heard().split_last().context("it heard nothing")?;
    let mut next = vec![0; said.len()];
    let mut whose = Vec::with_capacity(reference.len());
    for line in reference {
        let speaker = (0..said.len()).find(|&number| said[number].get(next[number]) == Some(line));
        let speaker = speaker.with_context(|| {
            format!("{line:?} came, which nobody was to say next: lost, doubled or out of order")
        })?;
        next[speaker] += 1;
        whose.push(speaker);
    }
    for (said, heard) in said.iter().zip(next) {
        ensure!(said.len() == heard, "{:?} was not heard by who listened", said[heard]);
    }
    for (number, talker) in here.iter().enumerate() {
        let (_, heard) = talker.heard().split_last().context("one heard nothing")?;
        let mut heard = heard.iter();
        let not_its_own =
            |&(line, speaker): &(&String, usize)| speaker != number || line.starts_with("* ");
        for (expected, _) in reference.iter().zip(whose.iter().copied()).filter(not_its_own) {
            let line = heard.next();
            ensure!(
                line == Some(expected),
                "{} heard {line:?} where who listened heard {expected:?}",
                talker.name()
            );
        }
        let surplus = heard.next();
        ensure!(surplus.is_none(), "{} heard {surplus:?} at the end", talker.name());
    }
    Ok(())
}

/// Whoever answers has heard the question: so nobody hears the answer before it.
fn answers(server: &Server) -> Result<()> {
    with_guests(server, |_, [a, b, c, d]| {
        for number in 0..200 {
            a.say(&format!("question {number}"))?;
            b.hears(&format!("guest1: question {number}"))?;
            b.say(&format!("answer {number}"))?;
            a.hears(&format!("guest2: answer {number}"))?;
            for other in [&c, &d] {
                other.hears(&format!("guest1: question {number}"))?;
                other.hears(&format!("guest2: answer {number}"))?;
            }
        }
        Ok(())
    })
}
