//! The new package: its files, in memory and on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use contract::catalog;

use crate::reach::{self, Reached};
use crate::source::{self, Module};
use crate::workspace::{self, Dependency};
use crate::{manifest, text};

/// More lines in one file are not readable.
const MAX_LINES: usize = 1000;

const RUSTFMT: &str = "use_small_heuristics = \"Max\"\n";

/// How the code is divided into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One file per module.
    Modules,
    /// `src/main.rs` has everything.
    SingleFile,
}

/// A package that stands alone: one server with the code and the dependencies that it uses.
#[derive(Debug)]
pub struct Package {
    /// Its files, with their paths in the package.
    pub files: BTreeMap<PathBuf, String>,
}

impl Package {
    /// Makes a package with this name of the server.
    ///
    /// # Errors
    /// There is no such server, a file cannot be read, or the layout is not readable.
    pub fn new(server: &str, name: &str, layout: Layout) -> Result<Self> {
        let Some(entry) = catalog::find(server) else {
            let names: Vec<_> = catalog::SERVERS.iter().map(|it| it.name).collect();
            bail!("there is no server {server:?}; the servers are {}", names.join(", "));
        };
        let packages = workspace::packages()?;
        let package = packages.iter().find(|it| it.name == entry.package);
        let package = package.context("the package of the server is missing")?;
        let binary = package.binaries.iter().find(|(name, _)| name == server);
        let (_, file) = binary.context("the file of the server is missing")?;

        let mut modules = Vec::new();
        let main = source::load(&mut modules, file, &[])?;
        let own: Vec<usize> = (0..modules.len()).collect();
        let mut libraries = BTreeMap::new();
        for library in &packages {
            let Some(file) = &library.library else { continue };
            if library.name == "common" || is_of_server(&library.name) {
                let module = library.name.replace('-', "_");
                let root = source::load(&mut modules, file, std::slice::from_ref(&module))?;
                libraries.insert(module, root);
            }
        }
        let mut reached = reach::reach(&modules, &own, &libraries);
        reach::add_external(&modules, &mut reached);

        let used = libraries.iter().filter(|&(_, &root)| text::has_code(&modules, root, &reached));
        let used: BTreeMap<_, _> = used.map(|(name, &root)| (name.clone(), root)).collect();
        let known = packages
            .iter()
            .filter(|it| it.name == entry.package || used.contains_key(&it.name.replace('-', "_")));
        let known: Vec<&Dependency> = known.flat_map(|it| &it.dependencies).collect();
        let manifest = manifest::write(name, server, &known, &reached.external);

        let mut files = sources(&modules, main, server, &reached, &used)?;
        if layout == Layout::SingleFile {
            files = BTreeMap::from([(
                PathBuf::from("src/main.rs"),
                join(&files, Path::new("src/main.rs"))?,
            )]);
        }
        for text in files.values_mut() {
            *text = format(text)?;
        }
        if layout == Layout::SingleFile {
            let lines: usize = files.values().map(|text| text.lines().count()).sum();
            ensure!(
                lines <= MAX_LINES,
                "{server} in one file would have {lines} lines, which nobody wants to read; \
                 leave out --single-file"
            );
        }
        files.insert("Cargo.toml".into(), manifest);
        files.insert("rustfmt.toml".into(), RUSTFMT.into());
        files.insert(".gitignore".into(), "/target\n".into());
        for file in ["LICENSE", "Cargo.lock"] {
            files.insert(file.into(), read(&workspace::root().join(file))?);
        }
        Ok(Self { files })
    }

    /// Writes the package into `folder`, which must be empty or not exist.
    ///
    /// # Errors
    /// The folder is not empty, or it cannot be written to. The message names it.
    pub fn write(&self, folder: &Path) -> Result<()> {
        check_empty(folder)?;
        for (path, text) in &self.files {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create the folder {}", parent.display()))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn is_of_server(package: &str) -> bool {
    catalog::SERVERS.iter().any(|entry| entry.package == package)
}

fn check_empty(folder: &Path) -> Result<()> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "the folder {} is not empty", folder.display());
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", folder.display())),
    }
}

/// Fails if a package cannot be written into `folder`: it is not empty, or inside this workspace.
///
/// # Errors
/// The message says what is wrong with the folder.
pub fn check_folder(folder: &Path) -> Result<()> {
    check_empty(folder)?;
    // The folder may not exist yet. One of those above it does.
    let mut existing = std::path::absolute(folder)?;
    let mut rest = PathBuf::new();
    while !existing.exists() {
        let name = existing.file_name().map(PathBuf::from).unwrap_or_default();
        rest = name.join(&rest);
        ensure!(existing.pop(), "cannot find {}", folder.display());
    }
    let existing = existing.canonicalize();
    let resolved =
        existing.with_context(|| format!("cannot resolve {}", folder.display()))?.join(&rest);
    let root = workspace::root().canonicalize()?;
    ensure!(
        !resolved.starts_with(&root),
        "the folder {} is inside this workspace, so Cargo would take the package for a part of it; \
         choose a folder outside of {}",
        folder.display(),
        root.display()
    );
    Ok(())
}

/// The code, by file.
fn sources(
    modules: &[Module],
    main: usize,
    server: &str,
    reached: &Reached,
    used: &BTreeMap<String, usize>,
) -> Result<BTreeMap<PathBuf, String>> {
    let removed = text::removed_names(modules, reached);
    let libraries: BTreeSet<String> = used.keys().cloned().collect();
    let mut files = BTreeMap::new();
    for (index, module) in modules.iter().enumerate() {
        if !text::has_code(modules, index, reached) {
            continue;
        }
        let mut code = text::code(modules, index, reached, &libraries);
        if module.path == ["common"] {
            let body = code.lines().skip_while(|line| line.starts_with("//!"));
            let body = body.collect::<Vec<_>>().join("\n");
            code = format!(
                "//! What the server shares with its siblings: {}.\n{body}\n",
                contents(modules, module, reached)
            );
        }
        code = text::comments(&code, module, &removed)?;
        if index == main {
            code = declare(&code, &libraries);
            code = text::header(&code, server, " (`LICENSE`)")?;
        }
        let path = if module.path.is_empty() {
            PathBuf::from("src/main.rs")
        } else {
            PathBuf::from(format!("src/{}.rs", module.path.join("/")))
        };
        files.insert(path, code);
    }
    Ok(files)
}

/// What the modules of `common` are about, for its header.
fn contents(modules: &[Module], common: &Module, reached: &Reached) -> String {
    const TOPICS: [(&str, &str); 6] = [
        ("start", "the command line and the log"),
        ("socket", "sockets"),
        ("signals", "signals"),
        ("connection", "the non-blocking read and write"),
        ("lock", "mutexes"),
        ("chat", "the rules of the chat room"),
    ];
    let is_used = |name: &str| {
        common.children.get(name).is_some_and(|&it| text::has_code(modules, it, reached))
    };
    let topics: Vec<_> =
        TOPICS.iter().filter(|(name, _)| is_used(name)).map(|(_, topic)| *topic).collect();
    match topics.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, [first, second])) => format!("{first}, {second}, and {last}"),
        Some((last, others)) => format!("{}, and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Declares the libraries as modules of `main.rs`.
fn declare(code: &str, libraries: &BTreeSet<String>) -> String {
    let declarations: Vec<_> = libraries.iter().map(|name| format!("mod {name};\n")).collect();
    let declarations = declarations.concat();
    if let Some(at) = code.find("\nmod ") {
        return format!("{}\n{declarations}{}", &code[..at], &code[at + 1..]);
    }
    let at = code.find("\nuse ").map_or(0, |at| at + 1);
    format!("{}{declarations}\n{}", &code[..at], &code[at..])
}

/// Puts the modules that a file declares into it.
fn join(files: &BTreeMap<PathBuf, String>, file: &Path) -> Result<String> {
    let text = files.get(file).with_context(|| format!("no file {}", file.display()))?;
    let folder =
        if file.ends_with("main.rs") { PathBuf::from("src") } else { file.with_extension("") };
    let (mut joined, mut inside) = (String::new(), String::new());
    for line in text.lines() {
        let name = line.strip_suffix(';').and_then(|line| line.split("mod ").nth(1));
        let Some(name) = name.filter(|_| !line.contains("//")) else {
            joined += &format!("{line}\n");
            continue;
        };
        let module = join(files, &folder.join(format!("{name}.rs")))?;
        inside += &format!("\n{} {{\n{module}}}\n", line.trim_end_matches(';'));
    }
    Ok(joined + &inside)
}

/// Formats the code with rustfmt. Without rustfmt the code stays as it is.
fn format(code: &str) -> Result<String> {
    let mut command = Command::new("rustfmt");
    command.args(["--edition", "2024", "--config", "use_small_heuristics=Max", "--emit", "stdout"]);
    // A file `rustfmt.toml` of the current folder does not count.
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut rustfmt) = command.spawn() else { return Ok(code.to_owned()) };
    let mut input = rustfmt.stdin.take().context("no pipe")?;
    let text = code.to_owned();
    // In a thread of its own, because rustfmt may write before it has read everything.
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = rustfmt.wait_with_output().context("cannot wait for rustfmt")?;
    let _ = writer.join();
    ensure!(
        output.status.success(),
        "rustfmt does not accept the code: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("rustfmt printed something that is not UTF-8")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
