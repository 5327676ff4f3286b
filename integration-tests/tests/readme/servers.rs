//! The tables of README.md name all servers and no others, those of `docs/communication-modes.md`
//! all modes, and those of the pages about pitfalls all pitfalls.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use integration_tests::markdown::{Cell, Table};
use integration_tests::{Binary, Page, Workspace};
use libtest_mimic::Trial;

use crate::pages::{README, chinese};
use crate::{expect_none, links, pages, trial};

const MODES: &str = "docs/communication-modes.md";
const PITFALLS: [&str; 2] = ["docs/pitfalls.md", "docs/contract.md"];

pub fn trials(workspace: &Arc<Workspace>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for page in [README, MODES].into_iter().flat_map(|page| [page.to_owned(), chinese(page)]) {
        let workspace = Arc::clone(workspace);
        let name = format!("servers::{page}::every_server_has_a_row");
        trials.push(trial(name, move || every_server_has_a_row(&Page::read(page)?, &workspace)));
    }
    for page in PITFALLS.into_iter().flat_map(|page| [page.to_owned(), chinese(page)]) {
        let name = format!("servers::{page}::every_pitfall_has_a_row");
        trials.push(trial(name, move || every_pitfall_has_a_row(&Page::read(page)?)));
    }
    for page in pages::all()? {
        let workspace = Arc::clone(workspace);
        let name = format!("servers::{page}::every_row_names_a_program");
        trials.push(trial(name, move || every_row_names_a_program(&Page::read(page)?, &workspace)));
    }
    Ok(trials)
}

/// The first cells of the rows of all tables.
fn first_cells(page: &Page) -> impl Iterator<Item = &Cell> {
    page.tables.iter().flat_map(|table| table.body().filter_map(|row| row.cells.first()))
}

/// The servers whose name, in the first cell of a row, links to their file.
pub fn named<'a>(page: &Page, workspace: &'a Workspace) -> Vec<&'a Binary> {
    let links: Vec<_> = first_cells(page).flat_map(|cell| &cell.links).collect();
    let is_named = |it: &&Binary| {
        links.iter().any(|link| link.text == it.name && links::file(page, link) == it.path)
    };
    workspace.servers().filter(is_named).collect()
}

/// The modes of communication have a page of their own.
fn every_server_has_a_row(page: &Page, workspace: &Workspace) -> Result<()> {
    let named = named(page, workspace);
    let is_about_modes = page.path.to_string_lossy().contains("modes");
    let expected = workspace.servers().filter(|server| server.is_mode() == is_about_modes);
    let missing = expected.filter(|server| !named.contains(server));
    expect_none(missing.map(|server| format!("{} has no row", server.path.display())))
}

/// A link in a first cell to a program carries the name of the program, and the first cells of a
/// column of servers name programs.
fn every_row_names_a_program(page: &Page, workspace: &Workspace) -> Result<()> {
    let mut wrong = Vec::new();
    for link in first_cells(page).flat_map(|cell| &cell.links) {
        let file = links::file(page, link);
        let is_program = file.ends_with("src/main.rs") || link.target.contains("/src/bin/");
        let is_its = |it: &Binary| it.name == link.text && it.path == file;
        if is_program && !workspace.binaries.iter().any(is_its) {
            wrong.push(format!("{}: {} is not {}", page.at(link.line), link.target, link.text));
        }
    }
    for table in &page.tables {
        let Some(column) = table.column(&["server", "mode", "服务器", "方式"]) else {
            continue;
        };
        for row in table.body() {
            let names = row.cells.get(column).into_iter().flat_map(|cell| &cell.codes);
            for name in names.filter(|name| workspace.binary(name).is_err()) {
                wrong.push(format!("{}: there is no server {name}", page.at(row.line)));
            }
        }
    }
    expect_none(wrong)
}

/// Each pitfall has exactly one row.
fn every_pitfall_has_a_row(page: &Page) -> Result<()> {
    let folder = fs::read_dir("pitfalls/src/bin")?.flatten();
    let pitfalls: BTreeSet<PathBuf> = folder.map(|entry| entry.path()).collect();
    ensure!(!pitfalls.is_empty(), "there are no pitfalls");
    let rows = page.tables.iter().flat_map(Table::body);
    let linked: Vec<_> = rows
        .flat_map(|row| row.cells.iter().flat_map(|cell| &cell.links))
        .map(|link| links::file(page, link))
        .filter(|file| file.starts_with("pitfalls"))
        .collect();
    let count = |pitfall: &PathBuf| linked.iter().filter(|file| *file == pitfall).count();
    let wrong = pitfalls.iter().filter(|pitfall| count(pitfall) != 1);
    expect_none(wrong.map(|pitfall| format!("{} has {} rows", pitfall.display(), count(pitfall))))
}
