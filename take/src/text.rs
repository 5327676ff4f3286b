//! The text of a module in the new package: what is not used is left out, paths lead to the new
//! modules, and comments refer to nothing that was left behind.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;
use quote::ToTokens;
use regex::Regex;
use syn::UseTree;

use crate::reach::Reached;
use crate::source::{Kind, Mention, Module, Token, mentions};

/// Replacements of parts of a text, which do not overlap.
type Edits = Vec<(Range<usize>, String)>;

/// Returns the code of a module.
pub fn code(
    modules: &[Module],
    index: usize,
    reached: &Reached,
    libraries: &BTreeSet<String>,
) -> String {
    let module = &modules[index];
    let mut edits = Edits::new();
    let mut drop =
        |place: &Range<usize>| edits.push((with_comments(&module.text, place), String::new()));
    let is_used = |node: usize| reached.nodes.contains(&(index, node));
    let mut in_dropped_impl = BTreeSet::new();
    for (place, nodes) in &module.impls {
        if !nodes.clone().any(is_used) {
            drop(place);
            in_dropped_impl.extend(nodes.clone());
        }
    }
    for (at, node) in module.nodes.iter().enumerate() {
        if !is_used(at) && !in_dropped_impl.contains(&at) {
            drop(&node.place);
        }
    }
    module.dropped.iter().for_each(&mut drop);
    for (name, place) in &module.declarations {
        if !has_code(modules, module.children[name], reached) {
            drop(place);
        }
    }
    for (at, node) in module.nodes.iter().enumerate() {
        if is_used(at) {
            edits.extend(paths(module, &node.tokens, libraries));
        }
    }
    for declaration in &module.uses {
        let used = |name: &str| reached.imports.contains(&(index, name.to_owned()));
        if declaration.leaves.iter().all(|leaf| used(&leaf.name)) {
            edits.extend(paths(module, &declaration.tokens, libraries));
            continue;
        }
        let place = &declaration.place;
        match keep(&declaration.item.tree, "", &used) {
            None => edits.push((with_comments(&module.text, place), String::new())),
            Some(tree) => {
                let visibility = declaration.item.vis.to_token_stream().to_string();
                let head = tree.split("::").next().unwrap_or_default().to_owned();
                let new = new_head(module, &head, libraries).unwrap_or(head.clone());
                let tree = tree.replacen(&head, &new, 1);
                let visibility = visibility.replace(' ', "");
                let space = if visibility.is_empty() { "" } else { " " };
                edits.push((place.clone(), format!("{visibility}{space}use {tree};")));
            }
        }
    }
    apply(&module.text, edits)
}

/// Returns whether something of a module or of one inside it is used.
pub fn has_code(modules: &[Module], index: usize, reached: &Reached) -> bool {
    let mut used = modules[index].nodes.iter().enumerate();
    used.any(|(at, _)| reached.nodes.contains(&(index, at)))
        || modules[index].children.values().any(|&child| has_code(modules, child, reached))
}

/// Returns the names of items that are used nowhere.
pub fn removed_names(modules: &[Module], reached: &Reached) -> BTreeSet<String> {
    let (mut removed, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for (index, module) in modules.iter().enumerate() {
        for (at, node) in module.nodes.iter().enumerate() {
            let (Kind::Named(name) | Kind::Method { name, .. }) = &node.kind else { continue };
            let is_used = reached.nodes.contains(&(index, at));
            if is_used { &mut kept } else { &mut removed }.insert(name.clone());
        }
    }
    removed.difference(&kept).cloned().collect()
}

/// The part of a `use` tree whose names are used.
fn keep(tree: &UseTree, parent: &str, used: &impl Fn(&str) -> bool) -> Option<String> {
    match tree {
        UseTree::Path(path) => {
            let name = path.ident.to_string();
            let inner = keep(&path.tree, &name, used)?;
            Some(if inner == "self" { name } else { format!("{name}::{inner}") })
        }
        UseTree::Group(group) => {
            let kept: Vec<_> = group.items.iter().filter_map(|it| keep(it, parent, used)).collect();
            match kept.as_slice() {
                [] => None,
                [only] => Some(only.clone()),
                several => Some(format!("{{{}}}", several.join(", "))),
            }
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            let imported = if name == "self" { parent } else { &name };
            used(imported).then_some(name)
        }
        UseTree::Rename(rename) => {
            let (name, alias) = (rename.ident.to_string(), rename.rename.to_string());
            used(&alias).then(|| format!("{name} as {alias}"))
        }
        other @ UseTree::Glob(_) => Some(other.to_token_stream().to_string()),
    }
}

/// The edits that make the paths in `tokens` lead to the new modules.
fn paths(module: &Module, tokens: &[Token], libraries: &BTreeSet<String>) -> Edits {
    let mut edits = Edits::new();
    for mention in mentions(tokens) {
        let Mention::Path(path, place) = mention else { continue };
        // In `use`, a group may follow the first segment.
        if let Some(new) = new_head(module, path[0], libraries).filter(|_| !place.is_empty()) {
            if module.text[place.end..].starts_with("::") {
                edits.push((place, new));
            }
        }
    }
    edits
}

/// What the first segment of a path must become, if it changes.
fn new_head(module: &Module, head: &str, libraries: &BTreeSet<String>) -> Option<String> {
    if head == "crate" && module.root_length > 0 {
        return Some(format!("crate::{}", module.path[..module.root_length].join("::")));
    }
    let is_root = module.path.is_empty();
    (libraries.contains(head) && !is_root).then(|| format!("crate::{head}"))
}

/// Extends the place of an item to the comments directly above it and to the end of its line.
fn with_comments(text: &str, place: &Range<usize>) -> Range<usize> {
    let mut start = text[..place.start].rfind('\n').map_or(0, |at| at + 1);
    while start > 0 {
        let above = text[..start - 1].rfind('\n').map_or(0, |at| at + 1);
        let line = text[above..start].trim_start();
        if !line.starts_with("//") || line.starts_with("//!") {
            break;
        }
        start = above;
    }
    let end = text[place.end..].find('\n').map_or(text.len(), |at| place.end + at + 1);
    start..end
}

/// Applies the edits. One inside another one, which drops a larger part, has no effect.
fn apply(text: &str, mut edits: Edits) -> String {
    edits.sort_by_key(|(place, _)| (place.start, usize::MAX - place.end));
    let mut result = String::new();
    let mut at = 0;
    for (place, new) in edits {
        if place.start < at {
            at = at.max(if new.is_empty() { place.end } else { at });
            continue;
        }
        result += &text[at..place.start];
        result += &new;
        at = place.end;
    }
    result + &text[at..]
}

/// Removes from the comments what refers to files that are not taken.
pub fn comments(code: &str, module: &Module, removed: &BTreeSet<String>) -> Result<String> {
    let pitfall = Regex::new(
        r"(?:[,;:] |\s*)[Pp]itfalls?: [a-z0-9]+(?:-[a-z0-9]+)*(?:, [a-z0-9]+-[a-z0-9-]+)*\.?",
    )?;
    let of_the_mark =
        Regex::new(r"(?m)^//!\n//! A comment `Pitfall: NAME`[^\n]*\n(?://! [^\n]*\n)*")?;
    let link = Regex::new(r"\[(`[A-Za-z_:()]+`)\](?:\([^)]*\))?")?;
    let code = of_the_mark.replace_all(code, "");
    let root = module.path[..module.root_length].join("::");
    let mut lines: Vec<String> = Vec::new();
    for line in code.lines() {
        let Some(start) = line.find("//") else {
            lines.push(line.to_owned());
            continue;
        };
        let (before, comment) = line.split_at(start);
        let mut comment = pitfall.replace_all(comment, "").into_owned();
        let name = |text: &str| {
            let text = text.trim_matches(['`', '(', ')']).trim_end_matches("()");
            text.rsplit("::").next().unwrap_or_default().to_owned()
        };
        comment = link
            .replace_all(&comment, |found: &regex::Captures<'_>| {
                let whole = found[0].to_owned();
                if removed.contains(&name(&found[1])) { found[1].to_owned() } else { whole }
            })
            .into_owned();
        if !root.is_empty() {
            comment = comment.replace("](crate::", &format!("](crate::{root}::"));
            comment = comment.replace("[`common::", "[`crate::common::");
        }
        let is_empty = matches!(comment.trim_end(), "//" | "///" | "//!" | "// -");
        if is_empty && line.trim_end() != format!("{before}{comment}").trim_end() {
            if !before.trim().is_empty() {
                lines.push(before.trim_end().to_owned());
            }
            continue;
        }
        lines.push(format!("{before}{comment}").trim_end().to_owned());
    }
    Ok(lines.join("\n") + "\n")
}

/// Adapts the header of the server's file.
pub fn header(code: &str, server: &str, license_file: &str) -> Result<String> {
    let end = code.lines().take_while(|line| line.starts_with("//!")).map(|it| it.len() + 1).sum();
    let (header, code) = code.split_at(end);
    let command = Regex::new(r"cargo run -p [a-z-]+(?: --bin [a-z-]+)?")?;
    let figure = Regex::new(r"(?m)^//! Figure:[^\n]*\n//!\n")?;
    let compare = Regex::new(r"(?m)^//! Compare with:[^\n]*\n(?://! [^\n]*\n)*")?;
    let document = Regex::new(r"(?s)[\s/!]*\(`?docs/[^)]*\)")?;
    let header = command.replace_all(header, "cargo run");
    let header = figure.replace_all(&header, "");
    let header = compare.replace_all(&header, "");
    let header = document.replace_all(&header, "");
    let header = header.trim_end_matches("\n//!\n").trim_end();
    let origin = format!(
        "//! This is `{server}` of \"Linux I/O models, one small server each\". License: 0BSD{license_file}."
    );
    Ok(format!("{header}\n//!\n{origin}\n{code}"))
}
