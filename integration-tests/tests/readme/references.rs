//! The files and programs that comments in the sources name exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use integration_tests::Workspace;
use libtest_mimic::Trial;
use regex::Regex;

use crate::{expect_none, listing, trial};

pub fn trials(workspace: &Arc<Workspace>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for entry in fs::read_dir(".")?.flatten() {
        let package = PathBuf::from(entry.file_name());
        if package.join("Cargo.toml").is_file() {
            let workspace = Arc::clone(workspace);
            let name = format!("references::{}", package.display());
            trials.push(trial(name, move || references(&package, &workspace)));
        }
    }
    Ok(trials)
}

fn references(package: &Path, workspace: &Workspace) -> Result<()> {
    let codes = Regex::new("`([^`]+)`")?;
    let mut wrong = Vec::new();
    for file in sources(package)? {
        for (line, comment) in comments(&fs::read_to_string(&file)?)? {
            for found in codes.captures_iter(&comment) {
                let line = line + comment[..found.get_match().start()].matches('\n').count();
                let code = found[1].replace('\n', " ");
                if let Err(error) = exists(&code, package, &file, workspace) {
                    wrong.push(format!("{}:{line}: `{code}`: {error:#}", file.display()));
                }
            }
        }
    }
    expect_none(wrong)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            files.extend(sources(&entry.path())?);
        } else if entry.path().extension().is_some_and(|it| it == "rs") {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// The comments, each with its first line. Adjacent lines are one comment. Figures and transcripts
/// are left out.
fn comments(source: &str) -> Result<Vec<(usize, String)>> {
    let comment = Regex::new(r"(?:^|\s)//[/!]?(?: |$)(.*)$")?;
    let mut comments: Vec<(usize, String)> = Vec::new();
    let (mut last, mut fenced) = (0, false);
    for (number, line) in (1..).zip(source.lines()) {
        let Some(text) = comment.captures(line).map(|found| found[1].to_owned()) else { continue };
        fenced ^= text.trim_start().starts_with("```");
        let text = if fenced || text.trim_start().starts_with("```") { "" } else { &text };
        match comments.last_mut().filter(|_| last + 1 == number) {
            Some((_, comment)) => *comment += &format!("\n{text}"),
            None => comments.push((number, text.to_owned())),
        }
        last = number;
    }
    Ok(comments)
}

fn exists(code: &str, package: &Path, file: &Path, workspace: &Workspace) -> Result<()> {
    // Words in capitals are placeholders.
    let run = Regex::new("cargo run -p ([a-z][a-z-]*)(?: --bin ([a-z-]+))?")?;
    if let Some(run) = run.captures(code) {
        workspace.run(&run[1], run.get(2).map(|name| name.as_str()))?;
    }
    if let Some(filter) = Regex::new("^cargo test ([a-z_:]+)$")?.captures(code) {
        listing::selects_a_test("", &[&filter[1]])?;
    }
    let mut files = Vec::new();
    for word in code.split_whitespace().flat_map(expand) {
        files.extend(path(&word, package, file)?);
    }
    if code.starts_with("diff ") {
        let [one, other] = files.as_slice() else { bail!("diff needs two files") };
        ensure!(fs::read(one)? != fs::read(other)?, "the files do not differ");
    }
    Ok(())
}

/// Expands braces as a shell does: `a{b,c}` is `ab` and `ac`.
fn expand(word: &str) -> Vec<String> {
    let parts = || {
        let (before, rest) = word.split_once('{')?;
        let (inner, after) = rest.split_once('}')?;
        Some(inner.split(',').map(|part| format!("{before}{part}{after}")).collect())
    };
    parts().unwrap_or_else(|| vec![word.to_owned()])
}

/// The file that a word names, if it looks like a path: relative to the root of the repository, or
/// to the file with the comment.
fn path(word: &str, package: &Path, file: &Path) -> Result<Option<PathBuf>> {
    let like_one = Regex::new(r"^([\w.-]+(?:/[\w.-]+)*\.(?:rs|svg|md|conf|toml))(?::([0-9]+))?$")?;
    let Some(parts) = like_one.captures(word) else { return Ok(None) };
    if parts[1].contains("NAME") {
        return Ok(None); // a placeholder
    }
    let beside = file.parent().context("the file has no folder")?;
    let places = [Path::new(""), beside, package, &package.join("src"), &package.join("src/bin")];
    let found = places.iter().map(|place| place.join(&parts[1])).find(|path| path.is_file());
    let found = found.with_context(|| format!("there is no {}", &parts[1]))?;
    if let Some(line) = parts.get(2) {
        let count = fs::read_to_string(&found)?.lines().count();
        ensure!((1..=count).contains(&line.as_str().parse()?), "the file has {count} lines");
    }
    Ok(Some(found))
}
