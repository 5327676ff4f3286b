//! Runs a part of a long suite: `TEST_SAMPLE=8 cargo test` runs every eighth trial of each group.
//!
//! A group is what stands before the first `::` of a trial's name. The choice depends on nothing
//! but the names and `TEST_SEED`, a number. All trials that are left out show as `ignored`.

use std::collections::HashMap;
use std::env;

use libtest_mimic::Trial;

const SAMPLE: &str = "TEST_SAMPLE";
const SEED: &str = "TEST_SEED";

/// Marks the trials that are not in the sample as ignored, and reports how many these are. Without
/// `TEST_SAMPLE` all trials run.
#[must_use]
pub fn apply(trials: Vec<Trial>) -> Vec<Trial> {
    let Some(every) = number(SAMPLE).filter(|every| *every > 1) else { return trials };
    let seed = number(SEED).unwrap_or(0);
    let names: Vec<_> = trials.iter().map(Trial::name).collect();
    let chosen = choose(&names, every, seed);
    let count = chosen.iter().filter(|is_chosen| **is_chosen).count();
    eprintln!(
        "{SAMPLE}={every} {SEED}={seed}: {count} of {} trials run, the others show as ignored",
        names.len()
    );
    let mark = |(trial, is_chosen): (Trial, bool)| {
        // A trial may be ignored already.
        if is_chosen { trial } else { trial.with_ignored_flag(true) }
    };
    trials.into_iter().zip(chosen).map(mark).collect()
}

/// Whether only a part of the trials runs.
#[must_use]
pub fn is_set() -> bool {
    number(SAMPLE).is_some_and(|every| every > 1)
}

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

/// One name in `every` names of each group, and at least one name of each group.
fn choose(names: &[&str], every: usize, seed: usize) -> Vec<bool> {
    let group = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
    let mut sizes: HashMap<String, usize> = HashMap::new();
    for name in names {
        *sizes.entry(group(name)).or_default() += 1;
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut chosen = Vec::new();
    for name in names {
        let group = group(name);
        let every = every.min(sizes[&group]);
        let place = places.entry(group).or_default();
        chosen.push(*place % every == seed % every);
        *place += 1;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_every_third_and_at_least_one_of_each_group() {
        let names = ["a::1", "a::2", "b::1", "a::3", "a::4", "b::2", "c"];
        let chosen = |seed| {
            let both = names.iter().zip(choose(&names, 3, seed));
            both.filter(|(_, is_chosen)| *is_chosen).map(|(name, _)| *name).collect::<Vec<_>>()
        };
        assert_eq!(chosen(0), ["a::1", "b::1", "a::4", "c"]);
        assert_eq!(chosen(1), ["a::2", "b::2", "c"]);
        assert_eq!(chosen(5), ["a::3", "b::2", "c"]);
    }
}
