//! The modules of a server and of the libraries that it may use, parsed.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Attribute, ImplItem, Item, ItemUse, Type, UseTree};

/// A module: a file of the workspace.
pub struct Module {
    /// Its path in the new package: empty for `main.rs`, else `common`, `common::chat` …
    pub path: Vec<String>,
    /// How many segments of `path` name the root of its crate: 0 for the server, 1 for a library.
    pub root_length: usize,
    pub text: String,
    pub children: BTreeMap<String, usize>,
    pub parent: Option<usize>,
    pub nodes: Vec<Node>,
    pub uses: Vec<Use>,
    /// Declarations `mod NAME;`, with their places.
    pub declarations: Vec<(String, Range<usize>)>,
    /// Inherent `impl` blocks, with the indices of their nodes.
    pub impls: Vec<(Range<usize>, Range<usize>)>,
    /// `mod tests;`, and attributes for lints of the workspace.
    pub dropped: Vec<Range<usize>>,
}

/// A part of a module that is taken or left out as a unit.
#[derive(Debug)]
pub struct Node {
    pub kind: Kind,
    pub tokens: Vec<Token>,
    pub place: Range<usize>,
}

#[derive(Debug)]
pub enum Kind {
    /// An item with this name.
    Named(String),
    /// A function or a constant of an `impl` block for the type with this name.
    Method { owner: String, name: String },
    /// An implementation of a trait for the type with this name.
    TraitImpl { owner: String },
    /// Something that belongs to the module itself.
    Always,
}

/// A `use` declaration.
pub struct Use {
    pub item: ItemUse,
    pub leaves: Vec<Leaf>,
    pub tokens: Vec<Token>,
    pub place: Range<usize>,
}

/// A name that a `use` declaration brings into scope.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub name: String,
    pub path: Vec<String>,
}

/// A token, in a list without nesting.
#[derive(Clone, Debug)]
pub enum Token {
    Ident(String, Range<usize>),
    Punct(char),
    /// A string literal, because a format string names constants.
    Text(String),
    Open,
    Close,
}

/// Reads the crate whose root is `file`, and appends its modules to `modules`.
pub fn load(modules: &mut Vec<Module>, file: &Path, root: &[String]) -> Result<usize> {
    let folder = file.parent().context("the file has no folder")?.to_owned();
    load_module(modules, file, &folder, root, root.len(), None)
}

fn load_module(
    modules: &mut Vec<Module>,
    file: &Path,
    folder: &Path,
    path: &[String],
    root_length: usize,
    parent: Option<usize>,
) -> Result<usize> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let parsed =
        syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
    let index = modules.len();
    modules.push(Module {
        path: path.to_vec(),
        root_length,
        text,
        children: BTreeMap::new(),
        parent,
        nodes: Vec::new(),
        uses: Vec::new(),
        declarations: Vec::new(),
        impls: Vec::new(),
        dropped: Vec::new(),
    });
    for item in parsed.items {
        if let Item::Mod(declaration) = &item {
            let place = item.span().byte_range();
            if declaration.attrs.iter().any(|it| it.path().is_ident("cfg")) {
                modules[index].dropped.push(place);
                continue;
            }
            let name = declaration.ident.to_string();
            let child: PathBuf = folder.join(format!("{name}.rs"));
            let mut child_path = path.to_vec();
            child_path.push(name.clone());
            let inside = folder.join(&name);
            let child =
                load_module(modules, &child, &inside, &child_path, root_length, Some(index))?;
            modules[index].children.insert(name.clone(), child);
            modules[index].declarations.push((name, place));
        } else {
            modules[index].add(item);
        }
    }
    Ok(index)
}

impl Module {
    fn add(&mut self, item: Item) {
        let place = item.span().byte_range();
        self.drop_lint_attributes(&item);
        let kind = match item {
            Item::Use(item) => {
                let mut leaves = Vec::new();
                add_leaves(&item.tree, &mut Vec::new(), &mut leaves);
                let tokens = flatten(item.to_token_stream());
                return self.uses.push(Use { item, leaves, tokens, place });
            }
            Item::Impl(block) if block.trait_.is_none() => {
                let owner = type_name(&block.self_ty);
                let first = self.nodes.len();
                for item in block.items {
                    let name = match &item {
                        ImplItem::Fn(function) => function.sig.ident.to_string(),
                        ImplItem::Const(constant) => constant.ident.to_string(),
                        _ => String::new(),
                    };
                    let kind = Kind::Method { owner: owner.clone(), name };
                    let place = item.span().byte_range();
                    let tokens = flatten(item.to_token_stream());
                    self.nodes.push(Node { kind, tokens, place });
                }
                return self.impls.push((place, first..self.nodes.len()));
            }
            Item::Impl(ref block) => Kind::TraitImpl { owner: type_name(&block.self_ty) },
            Item::Const(ref item) => Kind::Named(item.ident.to_string()),
            Item::Static(ref item) => Kind::Named(item.ident.to_string()),
            Item::Fn(ref item) => Kind::Named(item.sig.ident.to_string()),
            Item::Struct(ref item) => Kind::Named(item.ident.to_string()),
            Item::Enum(ref item) => Kind::Named(item.ident.to_string()),
            Item::Union(ref item) => Kind::Named(item.ident.to_string()),
            Item::Type(ref item) => Kind::Named(item.ident.to_string()),
            Item::Trait(ref item) => Kind::Named(item.ident.to_string()),
            _ => Kind::Always,
        };
        self.nodes.push(Node { kind, tokens: flatten(item.to_token_stream()), place });
    }

    /// `#[expect(clippy::…)]` is for lints that only the workspace has enabled.
    fn drop_lint_attributes(&mut self, item: &Item) {
        let mut add = |attributes: &[Attribute]| {
            let lints = attributes.iter().filter(|it| it.path().is_ident("expect"));
            self.dropped.extend(lints.map(|it| it.span().byte_range()));
        };
        match item {
            Item::Struct(item) => add(&item.attrs),
            Item::Fn(item) => add(&item.attrs),
            Item::Impl(block) => {
                for item in &block.items {
                    if let ImplItem::Fn(function) = item {
                        add(&function.attrs);
                    }
                }
            }
            _ => {}
        }
    }
}

fn type_name(kind: &Type) -> String {
    match kind {
        Type::Path(path) => {
            path.path.segments.last().map(|it| it.ident.to_string()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn add_leaves(tree: &UseTree, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    match tree {
        UseTree::Path(inner) => {
            path.push(inner.ident.to_string());
            add_leaves(&inner.tree, path, leaves);
            path.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|it| add_leaves(it, path, leaves)),
        UseTree::Name(name) => leaves.push(leaf(&name.ident.to_string(), None, path)),
        UseTree::Rename(rename) => {
            leaves.push(leaf(&rename.ident.to_string(), Some(rename.rename.to_string()), path));
        }
        UseTree::Glob(_) => {}
    }
}

fn leaf(name: &str, alias: Option<String>, path: &[String]) -> Leaf {
    let mut path = path.to_vec();
    if name != "self" {
        path.push(name.to_owned());
    }
    let name = alias.unwrap_or_else(|| path.last().cloned().unwrap_or_default());
    Leaf { name, path }
}

/// Returns the tokens without nesting and without attributes.
pub fn flatten(stream: TokenStream) -> Vec<Token> {
    let mut tokens = Vec::new();
    add_tokens(stream, &mut tokens);
    tokens
}

fn add_tokens(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut stream = stream.into_iter().peekable();
    while let Some(tree) = stream.next() {
        match tree {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let attribute = stream.next_if(
                    |it| matches!(it, TokenTree::Group(it) if it.delimiter() == Delimiter::Bracket),
                );
                if attribute.is_none() {
                    tokens.push(Token::Punct('#'));
                }
            }
            TokenTree::Punct(punct) => tokens.push(Token::Punct(punct.as_char())),
            TokenTree::Ident(ident) => {
                tokens.push(Token::Ident(ident.to_string(), ident.span().byte_range()));
            }
            TokenTree::Literal(literal) => tokens.push(Token::Text(literal.to_string())),
            TokenTree::Group(group) => {
                tokens.push(Token::Open);
                add_tokens(group.stream(), tokens);
                tokens.push(Token::Close);
            }
        }
    }
}

/// A use of a name in code.
pub enum Mention<'a> {
    /// A path, with the place of its first segment.
    Path(Vec<&'a str>, Range<usize>),
    /// The name of a method, and the name before the dot, if it is one.
    Method(&'a str, Option<&'a str>),
}

/// Returns the names that `tokens` mention.
pub fn mentions(tokens: &[Token]) -> Vec<Mention<'_>> {
    let punct = |at: Option<usize>, wanted: char| {
        at.is_some_and(|at| matches!(tokens.get(at), Some(Token::Punct(it)) if *it == wanted))
    };
    let mut mentions = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Ident(name, place) => {
                let (before, second) = (at.checked_sub(1), at.checked_sub(2));
                if punct(before, '\'') || (punct(before, ':') && punct(second, ':')) {
                    continue; // a lifetime, or not the first segment of a path
                }
                if punct(before, '.') && !punct(second, '.') {
                    let receiver = match second.and_then(|at| tokens.get(at)) {
                        Some(Token::Ident(receiver, _)) => Some(receiver.as_str()),
                        _ => None,
                    };
                    // A field has no parentheses after it.
                    if matches!(tokens.get(at + 1), Some(Token::Open | Token::Punct(':'))) {
                        mentions.push(Mention::Method(name, receiver));
                    }
                    continue;
                }
                let mut path = vec![name.as_str()];
                let mut next = at + 1;
                while punct(Some(next), ':') && punct(Some(next + 1), ':') {
                    let Some(Token::Ident(segment, _)) = tokens.get(next + 2) else { break };
                    path.push(segment);
                    next += 3;
                }
                mentions.push(Mention::Path(path, place.clone()));
            }
            Token::Text(text) => {
                // A format string names constants: `{MAX_LINE}`.
                for part in text.split('{').skip(1) {
                    let end = part.find(|it: char| !(it.is_ascii_uppercase() || it == '_'));
                    let name = &part[..end.unwrap_or(part.len())];
                    if !name.is_empty() {
                        mentions.push(Mention::Path(vec![name], 0..0));
                    }
                }
            }
            Token::Punct(_) | Token::Open | Token::Close => {}
        }
    }
    mentions
}
