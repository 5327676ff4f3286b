//! Which parts of the modules a server uses.
//!
//! It follows the names from the server's own files, as the compiler resolves them. It does not know
//! the types of variables: a method is used if its name follows a dot anywhere in the code that is used.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Kind, Mention, Module, mentions};

/// The result: indices of what is used.
#[derive(Debug, Default)]
pub struct Reached {
    /// Module and node.
    pub nodes: BTreeSet<(usize, usize)>,
    /// Module and name of a `use` declaration.
    pub imports: BTreeSet<(usize, String)>,
    /// Paths of crates from outside of the workspace.
    pub external: BTreeSet<Vec<String>>,
    methods: BTreeSet<String>,
    /// Module and node of a type, and the name of its function.
    functions: BTreeSet<((usize, usize), String)>,
}

/// What a path leads to.
enum Target {
    Module(usize),
    Node(usize, usize),
    External,
}

/// Methods of the traits that servers import without naming them later.
const TRAITS: [(&str, &[&str]); 11] = [
    ("AsFd", &["as_fd"]),
    ("AsRawFd", &["as_raw_fd"]),
    ("Context", &["context", "with_context"]),
    ("FromRawFd", &["from_raw_fd"]),
    ("IntoRawFd", &["into_raw_fd"]),
    ("OsStrExt", &["as_bytes"]),
    ("Read", &["read", "read_exact", "read_to_end", "by_ref", "take"]),
    ("TimeValLike", &["microseconds", "milliseconds", "seconds"]),
    ("ToSocketAddrs", &["to_socket_addrs"]),
    ("Write", &["flush", "write", "write", "write_all", "write_fmt", "write_vectored", "writeln"]),
    ("BufRead", &["lines", "read_line", "read_until"]),
];

/// Methods that other types have, too. One counts as used if the variable or field before the dot has
/// the name of the type: `output.len()`.
const AMBIGUOUS: [&str; 2] = ["len", "process"];

/// Whether the type of a method has a method with this name.
fn is_own(modules: &[Module], module: usize, kind: &Kind, wanted: &str) -> bool {
    let (Kind::Method { owner: own, .. } | Kind::TraitImpl { owner: own }) = kind else {
        return false;
    };
    modules[module].nodes.iter().any(
        |node| matches!(&node.kind, Kind::Method { owner, name } if owner == own && name == wanted),
    )
}

/// Finds what the modules in `roots`, the server's own, use.
pub fn reach(modules: &[Module], roots: &[usize], libraries: &BTreeMap<String, usize>) -> Reached {
    let mut search = Search { modules, libraries, reached: Reached::default(), queue: Vec::new() };
    for &module in roots {
        for node in 0..modules[module].nodes.len() {
            search.add(module, node);
        }
        for declaration in &modules[module].uses {
            for leaf in &declaration.leaves {
                search.import(module, &leaf.name);
            }
        }
    }
    search.run();
    search.reached
}

struct Search<'a> {
    modules: &'a [Module],
    libraries: &'a BTreeMap<String, usize>,
    reached: Reached,
    queue: Vec<(usize, usize)>,
}

impl Search<'_> {
    fn add(&mut self, module: usize, node: usize) {
        if self.reached.nodes.insert((module, node)) {
            self.queue.push((module, node));
        }
    }

    fn run(&mut self) {
        loop {
            while let Some((module, node)) = self.queue.pop() {
                self.follow(module, node);
            }
            self.add_associated();
            if self.queue.is_empty() {
                break;
            }
        }
        self.import_traits();
    }

    /// Adds everything that a node mentions.
    fn follow(&mut self, module: usize, node: usize) {
        let modules = self.modules;
        let node = &modules[module].nodes[node];
        for mention in mentions(&node.tokens) {
            match mention {
                Mention::Method(name, Some("self"))
                    if is_own(modules, module, &node.kind, name) =>
                {
                    if let Kind::Method { owner, .. } | Kind::TraitImpl { owner } = &node.kind {
                        self.resolve(module, &[owner, name]);
                    }
                }
                Mention::Method(name, receiver) if AMBIGUOUS.contains(&name) => {
                    let receiver = receiver.unwrap_or_default();
                    self.reached.methods.insert(format!("{receiver}.{name}"));
                }
                Mention::Method(name, _) => {
                    self.reached.methods.insert(name.to_owned());
                }
                Mention::Path(path, _) if path[0] == "Self" => {
                    if let Kind::Method { owner, .. } | Kind::TraitImpl { owner } = &node.kind {
                        let mut whole = vec![owner.as_str()];
                        whole.extend(&path[1..]);
                        self.resolve(module, &whole);
                    }
                }
                Mention::Path(path, _) => {
                    self.resolve(module, &path);
                }
            }
        }
    }

    /// Finds what a path means in a module, and adds it.
    fn resolve(&mut self, module: usize, path: &[&str]) -> Option<Target> {
        let modules = self.modules;
        let (first, rest) = path.split_first()?;
        let target = match *first {
            "crate" => Target::Module(self.root(module)),
            "self" => Target::Module(module),
            "super" => Target::Module(modules[module].parent?),
            name => self.lookup(module, name, rest.is_empty(), true)?,
        };
        self.descend(target, rest)
    }

    fn descend(&mut self, target: Target, rest: &[&str]) -> Option<Target> {
        match target {
            Target::Module(inside) => {
                let Some((next, rest)) = rest.split_first() else { return Some(target) };
                let target = match *next {
                    "super" => Target::Module(self.modules[inside].parent?),
                    name => self.lookup(inside, name, rest.is_empty(), false)?,
                };
                self.descend(target, rest)
            }
            Target::Node(module, node) => {
                self.add(module, node);
                if let Some(function) = rest.first() {
                    self.reached.functions.insert(((module, node), (*function).to_owned()));
                }
                Some(target)
            }
            Target::External => Some(target),
        }
    }

    /// Finds a name in the scope of a module. The last segment of a path is an item if there is one
    /// with this name, and the others are modules or types.
    fn lookup(&mut self, module: usize, name: &str, last: bool, head: bool) -> Option<Target> {
        let child = self.modules[module].children.get(name).copied().map(Target::Module);
        let library = self.libraries.get(name).filter(|_| head).copied().map(Target::Module);
        let submodule = child.or(library);
        if !last && submodule.is_some() {
            return submodule;
        }
        let named = |kind: &Kind| matches!(kind, Kind::Named(it) if it == name);
        let node = self.modules[module].nodes.iter().position(|node| named(&node.kind));
        if let Some(node) = node {
            return Some(Target::Node(module, node));
        }
        self.import(module, name).or(submodule)
    }

    /// Marks a `use` declaration of this name as used, and returns what it imports.
    fn import(&mut self, module: usize, name: &str) -> Option<Target> {
        let modules = self.modules;
        let mut leaves = modules[module].uses.iter().flat_map(|it| &it.leaves);
        let leaf = leaves.find(|leaf| leaf.name == name)?;
        self.reached.imports.insert((module, name.to_owned()));
        let path: Vec<_> = leaf.path.iter().map(String::as_str).collect();
        let internal = ["crate", "self", "super"].contains(&path[0])
            || self.libraries.contains_key(path[0])
            || modules[module].children.contains_key(path[0])
            || path[0] != name && self.is_named(module, path[0]);
        if internal { self.resolve(module, &path) } else { Some(Target::External) }
    }

    /// `use Kind::*`, and the like.
    fn is_named(&self, module: usize, name: &str) -> bool {
        let nodes = &self.modules[module].nodes;
        nodes.iter().any(|node| matches!(&node.kind, Kind::Named(it) if it == name))
    }

    /// Adds the methods and implementations of the types that are used.
    fn add_associated(&mut self) {
        let modules = self.modules;
        for module in 0..self.modules.len() {
            for node in 0..self.modules[module].nodes.len() {
                let is_used = match &self.modules[module].nodes[node].kind {
                    Kind::Named(_) => false,
                    Kind::Always => self.has_used_node(module),
                    Kind::TraitImpl { owner } => self.is_used_type(module, owner).is_some(),
                    Kind::Method { owner, name } => {
                        self.is_used_type(module, owner).is_some_and(|owner| {
                            self.is_called(&modules[owner.0].nodes[owner.1].kind, name)
                                || self.reached.functions.contains(&(owner, name.clone()))
                        })
                    }
                };
                if is_used {
                    self.add(module, node);
                }
            }
        }
    }

    fn is_called(&self, owner: &Kind, name: &str) -> bool {
        let Kind::Named(owner) = owner else { return false };
        let receiver = owner.to_lowercase();
        self.reached.methods.contains(name)
            || self.reached.methods.contains(&format!("{receiver}.{name}"))
    }

    fn has_used_node(&self, module: usize) -> bool {
        self.reached.nodes.range((module, 0)..(module + 1, 0)).next().is_some()
            || self.modules[module].children.values().any(|&child| self.has_used_node(child))
    }

    /// Returns the type if it is used.
    fn is_used_type(&self, module: usize, owner: &str) -> Option<(usize, usize)> {
        let named = |kind: &Kind| matches!(kind, Kind::Named(it) if it == owner);
        let node = self.modules[module].nodes.iter().position(|node| named(&node.kind))?;
        self.reached.nodes.contains(&(module, node)).then_some((module, node))
    }

    /// Adds the imports of traits of which only methods are named.
    fn import_traits(&mut self) {
        for (module, source) in self.modules.iter().enumerate() {
            let mut names = BTreeSet::new();
            for &(_, node) in self.reached.nodes.range((module, 0)..(module + 1, 0)) {
                for mention in mentions(&source.nodes[node].tokens) {
                    match mention {
                        Mention::Method(name, _) => _ = names.insert(name.to_owned()),
                        Mention::Path(path, _) => {
                            names.insert(path[path.len() - 1].to_owned());
                        }
                    }
                }
            }
            for leaf in source.uses.iter().flat_map(|it| &it.leaves) {
                let imported = leaf.path.last().map_or("", String::as_str);
                let methods = TRAITS.iter().find(|(name, _)| *name == imported);
                if methods.is_some_and(|(_, methods)| methods.iter().any(|it| names.contains(*it)))
                {
                    self.reached.imports.insert((module, leaf.name.clone()));
                }
            }
        }
    }

    fn root(&self, mut module: usize) -> usize {
        while let Some(parent) = self.modules[module].parent {
            module = parent;
        }
        module
    }
}

/// Adds the paths of crates from outside of the workspace that the code uses, imported or not.
pub fn add_external(modules: &[Module], reached: &mut Reached) {
    for (index, module) in modules.iter().enumerate() {
        for leaf in module.uses.iter().flat_map(|it| &it.leaves) {
            if reached.imports.contains(&(index, leaf.name.clone())) {
                reached.external.insert(leaf.path.clone());
            }
        }
        for (at, node) in module.nodes.iter().enumerate() {
            if !reached.nodes.contains(&(index, at)) {
                continue;
            }
            for mention in mentions(&node.tokens) {
                if let Mention::Path(path, _) = mention {
                    if path.len() > 1 {
                        let path = path.iter().map(|it| (*it).to_owned()).collect();
                        reached.external.insert(path);
                    }
                }
            }
        }
    }
}
