//! The README's tables name all servers, and no others; the contract's page names all pitfalls.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use integration_tests::markdown::Cell;
use integration_tests::{Binary, Page, Workspace};
use libtest_mimic::Trial;

use crate::{CHINESE, README, none, trial};

const PITFALLS: &str = "pitfalls/src/bin";

pub fn trials(workspace: &Arc<Workspace>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for page in [README, CHINESE] {
        for (name, test) in [
            (
                "every_server_has_a_row",
                every_server_has_a_row as fn(&Page, &Workspace) -> Result<()>,
            ),
            ("every_row_has_a_server", every_row_has_a_server),
            ("every_pitfall_is_there", every_pitfall_is_there),
        ] {
            let workspace = Arc::clone(workspace);
            let test = move || test(&Page::read(page)?, &workspace);
            trials.push(trial(format!("servers::{page}::{name}"), test));
        }
    }
    trials.push(trial("servers::docs/contract.md::every_pitfall".into(), every_pitfall_is_caught));
    trials
}

/// The first cells of the rows of all tables.
fn first_cells(page: &Page) -> impl Iterator<Item = &Cell> {
    page.tables.iter().flat_map(|table| table.body().filter_map(|row| row.cells.first()))
}

/// The servers of the tables: whose name, in the first cell of a row, links to their file.
pub fn named<'a>(page: &Page, workspace: &'a Workspace) -> Vec<&'a Binary> {
    let links: Vec<_> = first_cells(page).flat_map(|cell| &cell.links).collect();
    let has = |it: &&Binary| {
        links.iter().any(|link| link.text == it.name && Path::new(&link.target) == it.path)
    };
    workspace.servers().filter(has).collect()
}

fn every_server_has_a_row(page: &Page, workspace: &Workspace) -> Result<()> {
    let named = named(page, workspace);
    let missing = workspace.servers().filter(|server| !named.contains(server));
    none(missing.map(|server| format!("{} has no row", server.path.display())))
}

/// What a first cell calls a server, by a link to a program or in a column of servers, is one.
fn every_row_has_a_server(page: &Page, workspace: &Workspace) -> Result<()> {
    let mut wrong = Vec::new();
    for link in first_cells(page).flat_map(|cell| &cell.links) {
        let is_program = link.target.ends_with("src/main.rs") || link.target.contains("/src/bin/");
        let is_its = |it: &Binary| it.name == link.text && it.path == Path::new(&link.target);
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
    none(wrong)
}

fn pitfalls() -> Result<BTreeSet<PathBuf>> {
    let files: BTreeSet<_> = fs::read_dir(PITFALLS)?.flatten().map(|entry| entry.path()).collect();
    ensure!(!files.is_empty(), "there are no pitfalls");
    Ok(files)
}

fn every_pitfall_is_there(page: &Page, _: &Workspace) -> Result<()> {
    let there = pitfalls()?;
    let links = page.links.iter().filter(|link| link.target.starts_with("pitfalls/src/bin/"));
    let wrong = links.filter(|link| {
        let name = format!("{PITFALLS}/{}.rs", link.text);
        name != link.target || !there.contains(Path::new(&name))
    });
    none(wrong.map(|link| format!("{}: {} is not {}", page.at(link.line), link.target, link.text)))
}

fn every_pitfall_is_caught() -> Result<()> {
    let page = Page::read("docs/contract.md")?;
    let missing = pitfalls()?.into_iter().filter(|file| {
        let target = format!("../{}", file.display());
        !page.links.iter().any(|link| link.target == target)
    });
    none(missing.map(|file| format!("{} is not in docs/contract.md", file.display())))
}
