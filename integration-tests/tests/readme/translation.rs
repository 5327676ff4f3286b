//! A page and its Chinese edition agree, as far as a program can tell: the commands, tables, links,
//! names, and numbers are the same, in the same order.

use anyhow::{Result, bail};
use integration_tests::Page;
use integration_tests::markdown::{Cell, Code, Row, Table};
use libtest_mimic::Trial;
use regex::Regex;

use crate::{commands, links, pages, trial};

/// The parts of one kind that a page has, each with its line.
type Parts = Vec<(usize, String)>;

/// Finds the parts of one kind.
type Kind = fn(&Page) -> Result<Parts>;

const KINDS: [(&str, Kind); 5] = [
    ("commands", commands),
    ("tables", |page| Ok(tables(page))),
    ("links", links),
    ("names", |page| Ok(names(page))),
    ("numbers", numbers),
];

pub fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for english in pages::translated()? {
        for (name, parts) in KINDS {
            let english = english.clone();
            trials.push(trial(format!("translation::{english}::{name}"), move || {
                let chinese = Page::read(pages::chinese(&english))?;
                let english = Page::read(&english)?;
                compare(&english, &parts(&english)?, &chinese, &parts(&chinese)?)
            }));
        }
    }
    Ok(trials)
}

fn compare(english: &Page, one: &Parts, chinese: &Page, other: &Parts) -> Result<()> {
    for at in 0..one.len().max(other.len()) {
        match (one.get(at), other.get(at)) {
            (Some((_, one)), Some((_, other))) if one == other => {}
            (Some((line, one)), Some((other_line, other))) => {
                let (here, there) = (english.at(*line), chinese.at(*other_line));
                bail!("{here} has {one:?}, but {there} has {other:?}")
            }
            (Some((line, more)), None) => bail!("only {} has {more:?}", english.at(*line)),
            (None, Some((line, more))) => bail!("only {} has {more:?}", chinese.at(*line)),
            (None, None) => {}
        }
    }
    Ok(())
}

/// All blocks, and the commands within text. Comments in blocks are translated.
fn commands(page: &Page) -> Result<Parts> {
    let comment = Regex::new(r"(?m)\s+# .*$")?;
    let is_wanted = |code: &&Code| code.language.is_some() || commands::is_one(&code.text);
    let wanted = page.codes.iter().filter(is_wanted);
    Ok(wanted.map(|code| (code.line, comment.replace_all(&code.text, "").into_owned())).collect())
}

fn tables(page: &Page) -> Parts {
    let shape = |Table(rows): &Table| {
        let (count, head) = (rows.len(), rows.first()?);
        Some((head.line, format!("a table of {count} rows and {} columns", head.cells.len())))
    };
    page.tables.iter().filter_map(shape).collect()
}

/// The target of each link, with the number of the heading instead of its name. The two editions
/// of a page count as the same target.
fn links(page: &Page) -> Result<Parts> {
    let mut targets = Vec::new();
    for link in &page.links {
        let target = if link.target.contains("://") {
            link.target.clone()
        } else {
            let file = links::file(page, link);
            let name = file.display().to_string().replace(".zh-CN.md", ".md");
            let heading = if pages::is_page(&file) { links::heading(page, link)? } else { None };
            heading.map_or(name.clone(), |heading| format!("{name}, heading {heading}"))
        };
        targets.push((link.line, target));
    }
    Ok(targets)
}

/// What is in backticks in each cell, sorted because the order of words differs.
fn names(page: &Page) -> Parts {
    let names = |cell: &Cell| {
        let mut codes = cell.codes.clone();
        codes.sort();
        codes.join(", ")
    };
    let rows = page.tables.iter().flat_map(|Table(rows)| rows);
    let row = |row: &Row| (row.line, row.cells.iter().map(names).collect::<Vec<_>>().join(" | "));
    rows.map(row).collect()
}

/// The numbers and check marks in each cell and list item. A number that follows a letter belongs
/// to a name, such as C10K or IPv6.
fn numbers(page: &Page) -> Result<Parts> {
    let number = Regex::new("(?:^|[^A-Za-z0-9])([0-9]+(?:[.,][0-9]+)*|✓|·)")?;
    let all = |text: &str| {
        let numbers: Vec<_> = number.captures_iter(text).map(|it| it[1].to_owned()).collect();
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
