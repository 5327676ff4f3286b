//! No side effect, no `?` and no call that can fail stands in a log macro: its arguments are not
//! evaluated when the level is off. Pitfall: question-mark-in-log

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use integration_tests::workspace::root;
use regex::Regex;

/// Calls that may stand in a log macro, because they only return a value.
const ALLOWED: &[&str] = &["len", "as_raw_fd"];

/// The server that makes this mistake.
const PITFALL: &str = "pitfalls/src/bin/question-mark-in-log.rs";

#[test]
fn log_macros_have_no_effects() -> Result<()> {
    let mut found = Vec::new();
    for file in sources()? {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(root())?.display().to_string();
        found.extend(effects(&text).into_iter().map(|effect| (name.clone(), effect)));
    }
    let (pitfall, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(name, _)| name == PITFALL);
    assert_eq!(pitfall.len(), 1, "{PITFALL} makes the mistake once: {pitfall:?}");
    assert_eq!(others, [], "bind the value to a variable before the macro");
    Ok(())
}

#[test]
fn effects_are_found() {
    for (source, effect) in [
        ("debug!(\"{:?}\", result?);", "?"),
        ("trace!(\n    \"a (b) {}\",\n    stream.read(&mut buffer),\n);", "read("),
        ("log::info!(\"{}\", { count += 1; count });", "+="),
        ("warn!(\"{}\", next!());", "next!"),
    ] {
        assert_eq!(effects(source), [effect], "{source}");
    }
    for source in [
        "info!(\"is (this) an effect?\");",
        "trace!(\"\\\"{}\\\" = {}\", a == b, buffer.len());",
        "println!(\"{}\", result?);",
    ] {
        assert_eq!(effects(source), [""; 0], "{source}");
    }
}

/// The source files of all packages.
fn sources() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for package in fs::read_dir(root())? {
        let folder = package?.path().join("src");
        if folder.is_dir() {
            add(&folder, &mut files).with_context(|| folder.display().to_string())?;
        }
    }
    assert!(files.len() > 100, "only {} source files", files.len());
    Ok(files)
}

fn add(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            add(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

static STRING: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?s)"(\\.|[^"\\])*""#));
static LOG: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(trace|debug|info|warn|error)!\("));
static EFFECT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\?|\b[a-z_0-9]+\(|\b[a-z_0-9]+!|[-+*/%|&^]="));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a regular expression")
}

/// What the log macros of a source file do besides logging.
fn effects(source: &str) -> Vec<String> {
    // Without the contents of strings, each parenthesis is one of the program.
    let source = STRING.replace_all(source, "\"\"");
    let mut effects = Vec::new();
    for start in LOG.find_iter(&source) {
        let arguments = arguments(&source[start.end()..]);
        for found in EFFECT.find_iter(arguments) {
            let text = found.as_str();
            let is_allowed = ALLOWED.iter().any(|name| text.strip_suffix('(') == Some(name));
            if !is_allowed && !effects.iter().any(|known| known == text) {
                effects.push(text.to_owned());
            }
        }
    }
    effects
}

/// The text up to the parenthesis that closes the macro.
fn arguments(text: &str) -> &str {
    let mut depth = 1;
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..index];
        }
    }
    text
}
