//! The README in Chinese says the same, as far as a program can tell: the commands, the tables,
//! the links, the servers and the numbers are the same, in the same order.

use anyhow::{Context, Result, bail};
use integration_tests::Page;
use integration_tests::markdown::{Code, Row, Table};
use libtest_mimic::Trial;
use regex::Regex;

use crate::{CHINESE, README, commands, trial};

/// What a page has of a kind, each with its line.
type Parts = Vec<(usize, String)>;

/// Finds them.
type Kind = fn(&Page) -> Result<Parts>;

pub fn trials() -> Vec<Trial> {
    let kinds: [(&str, Kind); 5] = [
        ("commands", |page| Ok(commands(page))),
        ("tables", |page| Ok(tables(page))),
        ("links", links),
        ("servers", |page| Ok(servers(page))),
        ("numbers", numbers),
    ];
    let same = |(name, parts): (&str, Kind)| {
        trial(format!("translation::{name}"), move || {
            let (english, chinese) = (Page::read(README)?, Page::read(CHINESE)?);
            compare(&english, &parts(&english)?, &chinese, &parts(&chinese)?)
        })
    };
    kinds.into_iter().map(same).collect()
}

fn compare(english: &Page, one: &Parts, chinese: &Page, other: &Parts) -> Result<()> {
    for at in 0..one.len().max(other.len()) {
        match (one.get(at), other.get(at)) {
            (Some((_, one)), Some((_, other))) if one == other => {}
            (Some((line, one)), Some((other_line, other))) => {
                let (here, there) = (english.at(*line), chinese.at(*other_line));
                bail!("{here} has {one:?} where {there} has {other:?}")
            }
            (Some((line, more)), None) => bail!("{} has {more:?} more", english.at(*line)),
            (None, Some((line, more))) => bail!("{} has {more:?} more", chinese.at(*line)),
            (None, None) => {}
        }
    }
    Ok(())
}

/// All blocks, whole, and the commands within text.
fn commands(page: &Page) -> Parts {
    let wanted = |code: &&Code| code.language.is_some() || commands::is_one(&code.text);
    page.codes.iter().filter(wanted).map(|code| (code.line, code.text.clone())).collect()
}

fn tables(page: &Page) -> Parts {
    let shape = |Table(rows): &Table| {
        let (count, head) = (rows.len(), rows.first()?);
        Some((head.line, format!("a table of {count} rows and {} columns", head.cells.len())))
    };
    page.tables.iter().filter_map(shape).collect()
}

/// Where to, with the number of the heading in place of its name; to the other language is the
/// same as from it.
fn links(page: &Page) -> Result<Parts> {
    let mut links = Vec::new();
    for link in &page.links {
        let target = match link.target.strip_prefix('#') {
            Some(anchor) => {
                let number = page.anchors.iter().position(|it| it == anchor);
                let number = number.with_context(|| format!("{}: no heading", page.at(link.line)));
                format!("heading {}", number?)
            }
            None if [README, CHINESE].contains(&link.target.as_str()) => "the other".to_owned(),
            None => link.target.clone(),
        };
        links.push((link.line, target));
    }
    Ok(links)
}

/// All names in the first cells of rows.
fn servers(page: &Page) -> Parts {
    let names = |row: &Row| Some((row.line, row.cells.first()?.codes.join(", ")));
    page.tables.iter().flat_map(Table::body).filter_map(names).collect()
}

/// The digits in each cell and each item.
fn numbers(page: &Page) -> Result<Parts> {
    let number = Regex::new("[0-9]+(?:[.,][0-9]+)*")?;
    let all = |text: &str| {
        let numbers: Vec<_> = number.find_iter(text).map(|it| it.as_str()).collect();
        numbers.join(" ")
    };
    let mut parts = Vec::new();
    for row in page.tables.iter().flat_map(|Table(rows)| rows) {
        let numbers: Vec<_> = row.cells.iter().map(|cell| all(&cell.text)).collect();
        parts.push((row.line, numbers.join(" | ")));
    }
    parts.extend(page.items.iter().map(|(line, item)| (*line, all(item))));
    Ok(parts)
}
