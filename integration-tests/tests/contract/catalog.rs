//! Whether the catalog, the packages and the documentation name the same servers:
//! `catalog::SERVER::WHAT`. After a new server is added, these trials say what is still missing.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use contract::catalog::SERVERS;
use contract::{Entry, Kind};
use integration_tests::{Page, Workspace, workspace};
use libtest_mimic::Trial;

type Check = fn(&'static Entry) -> Result<()>;

/// What each entry of the catalog must have.
const CHECKS: [(&str, Check); 4] = [
    ("binary", has_binary),
    ("header", has_header),
    ("readme", |entry| has_row(entry, "README.md")),
    ("readme_zh", |entry| has_row(entry, "README.zh-CN.md")),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("catalog::every_server_has_an_entry", || {
        every_server_has_an_entry().map_err(|error| crate::failed(&error))
    })];
    for entry in SERVERS {
        for (what, check) in CHECKS {
            let name = format!("catalog::{}::{what}", entry.name.replace('-', "_"));
            trials.push(Trial::test(name, move || {
                check(entry).map_err(|error| crate::failed(&error))
            }));
        }
    }
    trials
}

fn every_server_has_an_entry() -> Result<()> {
    let workspace = Workspace::read()?;
    let servers = workspace.servers().filter(|server| !server.is_mode());
    let entries: BTreeSet<_> = SERVERS.iter().map(|entry| entry.name).collect();
    ensure!(entries.len() == SERVERS.len(), "the catalog names a server twice");
    for server in servers {
        let name = server.name.as_str();
        ensure!(entries.contains(name), "contract/src/catalog.rs has no entry for {name}");
    }
    Ok(())
}

fn has_binary(entry: &'static Entry) -> Result<()> {
    let workspace = Workspace::read()?;
    let binary = workspace.binary(entry.name)?;
    ensure!(
        binary.package == entry.package,
        "{} is a binary of {}, not of {}",
        entry.name,
        binary.package,
        entry.package
    );
    let is_chat = entry.kind == Kind::Chat;
    ensure!(binary.is_chat() == is_chat, "{} is a {:?} server?", entry.name, entry.kind);
    Ok(())
}

/// The parts that the header of each server has. Other tests try its commands.
const HEADER: [&str; 5] = ["Run: ", "Figure: ", "Use it when", "Limits", "Compare with"];

fn has_header(entry: &'static Entry) -> Result<()> {
    let workspace = Workspace::read()?;
    let path = &workspace.binary(entry.name)?.path;
    let source = fs::read_to_string(workspace::root().join(path))?;
    let header: Vec<_> = source.lines().map_while(|line| line.strip_prefix("//!")).collect();
    for part in HEADER {
        let found = header.iter().any(|line| line.trim_start().starts_with(part));
        ensure!(found, "the header of {} has no line that begins with {part:?}", path.display());
    }
    Ok(())
}

fn has_row(entry: &'static Entry, page: &str) -> Result<()> {
    let tables = Page::read(workspace::root().join(page))?.tables;
    let mut rows = tables.iter().flat_map(integration_tests::markdown::Table::body);
    let row = rows.find(|row| {
        row.cells.first().is_some_and(|cell| cell.codes.iter().any(|code| code == entry.name))
    });
    row.map(drop).with_context(|| format!("{page} has no table row for {}", entry.name))
}
