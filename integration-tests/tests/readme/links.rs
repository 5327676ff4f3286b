//! Links lead to what is there; an index of functions to files that define them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration_tests::Page;
use integration_tests::markdown::{Link, Row};
use libtest_mimic::Trial;
use regex::Regex;

use crate::{PAGES, none, trial};

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for page in PAGES {
        trials.push(trial(format!("links::{page}"), move || links(page)));
        trials.push(trial(format!("functions::{page}"), move || functions(page)));
    }
    trials
}

fn links(page: &str) -> Result<()> {
    let page = Page::read(page)?;
    let mut wrong = Vec::new();
    for link in &page.links {
        if let Err(error) = leads_somewhere(&page, link) {
            wrong.push(format!("{}: {}: {error:#}", page.at(link.line), link.target));
        }
    }
    none(wrong)
}

fn leads_somewhere(page: &Page, link: &Link) -> Result<()> {
    if link.target.contains("://") {
        return Ok(());
    }
    let file = file(page, link);
    // Also where it leads out of the repository and back in: GitHub would not follow.
    ensure!(!link.target.starts_with('/') && file.exists(), "there is no {}", file.display());
    let Some((_, anchor)) = link.target.split_once('#') else { return Ok(()) };
    if file.extension().is_some_and(|it| it == "md") {
        let anchors = Page::read(&file)?.anchors;
        ensure!(anchors.iter().any(|it| it == anchor), "there is no heading #{anchor}");
        return Ok(());
    }
    let lines = Regex::new("^L([0-9]+)(?:-L([0-9]+))?$")?.captures(anchor);
    let lines = lines.with_context(|| format!("#{anchor} is no line"))?;
    let first: usize = lines[1].parse()?;
    let last = lines.get(2).map_or(Ok(first), |last| last.as_str().parse())?;
    let count = fs::read_to_string(&file)?.lines().count();
    ensure!(0 < first && first <= last && last <= count, "the file has {count} lines");
    Ok(())
}

/// What it leads to, from the root.
fn file(page: &Page, link: &Link) -> PathBuf {
    let path = link.target.split('#').next().unwrap_or_default();
    if path.is_empty() {
        return page.path.clone();
    }
    page.path.parent().unwrap_or(Path::new("")).join(path)
}

/// In a table with a column of functions, the file that the row links to has them.
fn functions(page: &str) -> Result<()> {
    let page = Page::read(page)?;
    let mut wrong = Vec::new();
    for table in &page.tables {
        let Some(column) = table.column(&["function", "函数"]) else { continue };
        for row in table.body() {
            for name in row.cells.get(column).into_iter().flat_map(|cell| &cell.codes) {
                if let Err(error) = is_defined(&page, row, name) {
                    wrong.push(format!("{}: `{name}`: {error:#}", page.at(row.line)));
                }
            }
        }
    }
    none(wrong)
}

fn is_defined(page: &Page, row: &Row, name: &str) -> Result<()> {
    let mut files = row.cells.iter().flat_map(|cell| &cell.links).map(|link| file(page, link));
    let first = files.next().context("the row links to no file")?;
    ensure!(files.next().is_none(), "the row links to more than one file");
    let source = fs::read_to_string(&first)?;
    ensure!(defines(&source, name)?, "{} does not define it", first.display());
    Ok(())
}

/// Whether a file defines `name`, or `Type::name` in an `impl` of the type, as rustfmt has it.
fn defines(source: &str, name: &str) -> Result<bool> {
    let (owner, name) = name.split_once("::").map_or((None, name), |(a, b)| (Some(a), b));
    let name = regex::escape(name.trim_end_matches("()"));
    let item = format!(r"(?:fn|struct|enum|trait|const|static|type|mod|macro_rules!) {name}\b");
    let Some(owner) = owner else {
        return Ok(Regex::new(&format!(r"(?m)^[^/\n]*\b{item}"))?.is_match(source));
    };
    let block = format!(r"(?ms)^(?:pub )?(?:impl|trait)\b[^\n]*\b{owner}\b[^\n]*\{{$(.*?)^\}}$");
    let item = Regex::new(&format!(r"(?m)^    [^/\n]*\b{item}"))?;
    Ok(Regex::new(&block)?.captures_iter(source).any(|block| item.is_match(&block[1])))
}
