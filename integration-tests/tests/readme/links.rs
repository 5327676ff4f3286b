//! Links lead to something that exists, and an index of functions to files that define them.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration_tests::Page;
use integration_tests::markdown::{Link, Row};
use libtest_mimic::Trial;
use regex::Regex;

use crate::{expect_none, pages, trial};

pub fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for page in pages::all()? {
        let other = page.clone();
        trials.push(trial(format!("links::{page}"), move || links(&page)));
        trials.push(trial(format!("functions::{other}"), move || functions(&other)));
    }
    Ok(trials)
}

fn links(page: &str) -> Result<()> {
    let page = Page::read(page)?;
    let mut wrong = Vec::new();
    for link in &page.links {
        if let Err(error) = leads_somewhere(&page, link) {
            wrong.push(format!("{}: {}: {error:#}", page.at(link.line), link.target));
        }
    }
    expect_none(wrong)
}

fn leads_somewhere(page: &Page, link: &Link) -> Result<()> {
    if link.target.contains("://") {
        return Ok(());
    }
    let file = file(page, link);
    let inside = !link.target.starts_with('/') && !file.starts_with("..");
    ensure!(inside && file.exists(), "there is no {}", file.display());
    let Some((_, anchor)) = link.target.split_once('#') else { return Ok(()) };
    if pages::is_page(&file) {
        heading(page, link)?;
        return Ok(());
    }
    let lines = Regex::new("^L([0-9]+)(?:-L([0-9]+))?$")?.captures(anchor);
    let lines = lines.with_context(|| format!("#{anchor} is not a line"))?;
    let first: usize = lines[1].parse()?;
    let last = lines.get(2).map_or(Ok(first), |last| last.as_str().parse())?;
    let count = fs::read_to_string(&file)?.lines().count();
    ensure!(0 < first && first <= last && last <= count, "the file has {count} lines");
    Ok(())
}

/// The file that a link leads to, relative to the root of the repository.
pub fn file(page: &Page, link: &Link) -> PathBuf {
    let path = link.target.split('#').next().unwrap_or_default();
    if path.is_empty() {
        return page.path.clone();
    }
    let mut file = PathBuf::new();
    for part in page.path.parent().unwrap_or(Path::new("")).join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if file.file_name().is_some() => {
                file.pop();
            }
            _ => file.push(part),
        }
    }
    file
}

/// The number of the heading that a link leads to, if it leads to one.
pub fn heading(page: &Page, link: &Link) -> Result<Option<usize>> {
    let Some((_, anchor)) = link.target.split_once('#') else { return Ok(None) };
    let anchors = Page::read(file(page, link))?.anchors;
    let number = anchors.iter().position(|it| it == anchor);
    number.map(Some).with_context(|| format!("there is no heading #{anchor}"))
}

/// In a table with a column of functions, the file that a row links to defines the functions.
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
    expect_none(wrong)
}

fn is_defined(page: &Page, row: &Row, name: &str) -> Result<()> {
    let mut files = row.cells.iter().flat_map(|cell| &cell.links).map(|link| file(page, link));
    let first = files.next().context("the row links to no file")?;
    ensure!(files.next().is_none(), "the row links to more than one file");
    let source = fs::read_to_string(&first)?;
    ensure!(defines(&source, name)?, "{} does not define it", first.display());
    Ok(())
}

/// Whether a file, formatted by rustfmt, defines `name`, or `Type::name` in an `impl` of the type.
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
