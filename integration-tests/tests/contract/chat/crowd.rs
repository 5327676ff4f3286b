//! A thousand guests; guests who come and go while others talk, and who leave in mid-sentence.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use integration_tests::guest::crowd;
use integration_tests::{Guest, Running, Server, Talker, gathering};

use super::room;
use crate::case::{Case, few_descriptors};

pub const CASES: &[Case] = &[
    Case::new("a_thousand", a_thousand).lacks(few_descriptors).alone(),
    Case::new("sixty_close", |server| sixty_leave(server, Talker::close, false)),
    Case::new("sixty_close_in_one_moment", |server| sixty_leave(server, Talker::close, true)),
    Case::new("sixty_reset", |server| sixty_leave(server, Talker::reset, false)),
    Case::new("sixty_reset_in_one_moment", |server| sixty_leave(server, Talker::reset, true)),
    Case::new("sixty_half_close", |server| sixty_half_close(server, false)),
    Case::new("sixty_half_close_in_one_moment", |server| sixty_half_close(server, true)),
    Case::new("come_and_go", come_and_go),
];

fn a_thousand(server: &Server) -> Result<()> {
    const COUNT: usize = 1000;
    server.launch().serve(|running| {
        let guests = crowd(running, COUNT)?;
        let names: Vec<_> = guests.iter().map(|guest| guest.name().to_owned()).collect();
        let mut here: Vec<_> = guests.into_iter().map(Talker::new).collect::<Result<_>>()?;
        here[COUNT / 2].say("hello, all of you");
        let hello = format!("{}: hello, all of you", names[COUNT / 2]);
        let others = |here: &[Talker]| {
            let heard = |talker: &&Talker| talker.heard().last() == Some(&hello);
            here.iter().filter(heard).count()
        };
        gathering::run_until(&mut here, "999 hearing what one says", |here| {
            others(here) == COUNT - 1
        })?;
        for (number, talker) in here.iter().enumerate() {
            let heard = talker.heard().iter().filter(|line| **line != hello).cloned();
            let joined = names[number + 1..].iter().map(|name| format!("* {name} joined"));
            // They were accepted, and joined, in the order in which they connected.
            ensure!(heard.eq(joined), "{} has not heard just who came after it", talker.name());
        }

        here[0].forget();
        here[0].say("/who");
        gathering::run_until(&mut here, "an answer to /who", |here| !here[0].heard().is_empty())?;
        let all = format!("* here: {}", names.join(", "));
        ensure!(here[0].heard()[0] == all, "/who does not show the thousand");

        let stays = here.swap_remove(0);
        drop(here);
        let mut stays = [stays];
        gathering::run_until(&mut stays, "one hearing that 999 left", |stays| {
            stays[0].heard().iter().filter(|line| line.ends_with(" left")).count() == COUNT - 1
        })?;
        let new = Guest::arrive(running)?;
        ensure!(new.others() == 1, "after 999 had left there were {} others", new.others());
        new.sees(&[stays[0].name(), new.name()])
    })
}

const SIXTY: usize = 60;
/// What each of those who stay says meanwhile.
const LINES: usize = 20;
const SENTENCE: &str = "in the middle of a sen";

/// Sixty guests, each of whom has sent a part of a line, and heard everybody join.
fn sixty(running: &Running) -> Result<Vec<Talker>> {
    let guests = crowd(running, SIXTY)?;
    let mut sixty: Vec<_> = guests.into_iter().map(Talker::new).collect::<Result<_>>()?;
    gathering::run_until(&mut sixty, "all of sixty hearing each other join", |sixty| {
        sixty.iter().map(|talker| talker.heard().len()).sum::<usize>() >= SIXTY * (SIXTY - 1) / 2
    })?;
    sixty.iter().try_for_each(|talker| talker.send_now(SENTENCE.as_bytes()))?;
    Ok(sixty)
}

fn sixty_leave(
    server: &Server,
    leave: fn(Talker) -> Result<()>,
    in_one_moment: bool,
) -> Result<()> {
    leaving(server, in_one_moment, |sixty| sixty.drain(..).try_for_each(leave))?;
    Ok(())
}

/// Their half sentences count, as they do not wait for anything else.
fn sixty_half_close(server: &Server, in_one_moment: bool) -> Result<()> {
    let heard =
        leaving(server, in_one_moment, |sixty| sixty.iter().try_for_each(Talker::half_close))?;
    for (name, said) in heard {
        ensure!(said == 1, "{name}'s half sentence was heard {said} times");
    }
    Ok(())
}

/// Sixty leave, and three talk on. How often each one's half sentence was heard.
fn leaving(
    server: &Server,
    in_one_moment: bool,
    leave: impl Fn(&mut Vec<Talker>) -> Result<()>,
) -> Result<BTreeMap<String, usize>> {
    let mut heard = BTreeMap::new();
    server.launch().serve(|running| {
        let stay = room::<3>(running)?;
        let mut sixty = sixty(running)?;
        let names: Vec<_> = sixty.iter().map(|talker| talker.name().to_owned()).collect();
        let mut stay: Vec<_> = stay.into_iter().map(Talker::new).collect::<Result<_>>()?;
        gathering::run_until(&mut stay, "three hearing sixty join", |stay| {
            stay.iter().all(|talker| talker.heard().len() >= SIXTY)
        })?;
        stay.iter_mut().for_each(Talker::forget);
        for talker in &mut stay {
            (0..LINES).for_each(|number| talker.say(&format!("line {number}")));
        }
        if in_one_moment {
            running.paused(|| leave(&mut sixty))?;
        } else {
            leave(&mut sixty)?;
        }

        gathering::run_until(&mut stay, "three hearing sixty leave, and each other", |stay| {
            stay.iter().all(|talker| {
                let count = |part: &str| talker.heard().iter().filter(|l| l.contains(part)).count();
                count(" left") >= SIXTY && count(": line ") >= LINES * 2
            })
        })?;
        // Those who half-closed hear the end.
        gathering::run_until(&mut sixty, "those who left being closed", |sixty| {
            sixty.iter().all(Talker::has_ended)
        })?;
        for talker in &mut stay {
            talker.say("/who");
        }
        let here: Vec<_> = stay.iter().map(Talker::name).collect();
        let here = format!("* here: {}", here.join(", "));
        gathering::run_until(&mut stay, "three being told that three are here", |stay| {
            stay.iter().all(|talker| talker.heard().last() == Some(&here))
        })
        .with_context(|| {
            let told: Vec<_> = stay.iter().map(|talker| talker.heard().last()).collect();
            format!("they heard last: {told:?}")
        })?;
        let reference = stay[0].heard().to_vec();
        for name in &names {
            let said = format!("{name}: {SENTENCE}");
            let left = format!("* {name} left");
            for talker in &stay {
                let position = |text: &String| talker.heard().iter().position(|line| line == text);
                let count = |text: &String| talker.heard().iter().filter(|&l| l == text).count();
                ensure!(count(&left) == 1, "{name} left {} times", count(&left));
                ensure!(
                    position(&said).is_none_or(|said| Some(said) < position(&left)),
                    "{name} was heard after it had left"
                );
            }
            let count = reference.iter().filter(|line| **line == said).count();
            heard.insert(name.clone(), count);
        }
        let lines = reference.iter().filter(|line| line.contains(": line ")).count();
        ensure!(lines == LINES * 2, "who stayed heard {lines} lines of {}", LINES * 2);
        // And the door is open.
        let new = Guest::arrive(running)?;
        ensure!(new.others() == 3, "after sixty had left there were {} others", new.others());
        Ok(())
    })?;
    Ok(heard)
}

/// Three talk; meanwhile others come, say something, and go, in every way there is.
fn come_and_go(server: &Server) -> Result<()> {
    const WAVES: usize = 10;
    const WAVE: usize = 20;
    server.launch().serve(|running| {
        let stay = room::<3>(running)?;
        let mut stay: Vec<_> = stay.into_iter().map(Talker::new).collect::<Result<_>>()?;
        for wave in 0..WAVES {
            for talker in &mut stay {
                (0..10).for_each(|number| talker.say(&format!("{number} in wave {wave}")));
            }
            for (number, guest) in crowd(running, WAVE)?.into_iter().enumerate() {
                guest.say("I cannot stay")?;
                guest.send(b"I")?;
                match number % 4 {
                    0 => guest.reset()?,
                    1 => guest.half_close()?,
                    2 => guest.say("/quit")?,
                    _ => {}
                }
            }
            gathering::run_until(&mut stay, "three hearing each other", |stay| {
                let count = |talker: &Talker| {
                    talker.heard().iter().filter(|line| line.contains(" in wave ")).count()
                };
                stay.iter().all(|talker| count(talker) >= 20 * (wave + 1))
            })?;
        }
        gathering::run_until(&mut stay, "three hearing all leave", |stay| {
            let left = |talker: &Talker| {
                talker.heard().iter().filter(|line| line.ends_with(" left")).count()
            };
            stay.iter().all(|talker| left(talker) >= WAVES * WAVE)
        })?;
        for talker in &stay {
            balanced(talker.heard()).with_context(|| talker.name().to_owned())?;
        }
        let last = Guest::arrive(running)?;
        ensure!(last.others() == 3, "after all had left there were {} others", last.others());
        Ok(())
    })
}

/// Everybody joined once, then left once, and was heard in between only.
fn balanced(heard: &[String]) -> Result<()> {
    let mut here = BTreeMap::new();
    for line in heard {
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
