//! A server that is copied elsewhere, as `docs/snippets.md` describes it, works:
//! `snippets::SERVER`.
//!
//! The table of that page lists what each server needs. A trial makes a package of exactly these
//! files outside of the workspace, builds it, and lets the server serve a client. If the table
//! lists too little, the package does not build. If it lists something that no other part of the
//! package uses, the trial fails too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use contract::Launch;
use integration_tests::markdown::{Cell, Table};
use integration_tests::{Binary, Page, Workspace, sample, workspace};
use libtest_mimic::{Arguments, Completion, Trial};
use regex::Regex;

const PAGE: &str = "docs/snippets.md";

/// Held during a build. Cargo builds one package at a time anyway, and the build removes what the
/// last one has left.
static BUILD: Mutex<()> = Mutex::new(());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, sample::apply(trials)).exit_code(),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>> {
    let workspace = Arc::new(Workspace::read()?);
    let snippets = Arc::new(snippets(&workspace)?);
    let servers = workspace.servers().filter(|server| !server.is_mode()).cloned();
    let trial = |server: Binary| {
        let (workspace, snippets) = (Arc::clone(&workspace), Arc::clone(&snippets));
        Trial::ignorable_test(format!("snippets::{}", server.name), move || {
            let snippet = snippets.get(&server.name).context("the server has no row in the table");
            let result = snippet.and_then(|snippet| snippet.stands_alone(&server, &workspace));
            result.map_err(|error| format!("{error:#}").into())
        })
    };
    Ok(servers.map(trial).collect())
}

/// What a server needs.
#[derive(Clone, Default)]
struct Snippet {
    /// Modules of its own and libraries, relative to the root of the repository.
    files: Vec<PathBuf>,
    /// Files of `common`.
    common: Vec<String>,
    /// Dependencies from elsewhere, each with its features.
    packages: BTreeMap<String, Vec<String>>,
}

/// The rows of the table, by server.
fn snippets(workspace: &Workspace) -> Result<BTreeMap<String, Snippet>> {
    let page = Page::read(workspace::root().join(PAGE))?;
    let columns = |table: &Table| -> Option<[usize; 4]> {
        let column = |head| table.column(&[head]);
        let [files, common] = [column("beside its file")?, column("files of common")?];
        Some([column("server")?, files, common, column("packages")?])
    };
    let found = page.tables.iter().find_map(|table| Some((table, columns(table)?)));
    let (table, columns) = found.with_context(|| format!("{PAGE} has no table of snippets"))?;
    let mut snippets = BTreeMap::new();
    let mut every_server = Snippet::default();
    for row in table.body() {
        let cells: Option<Vec<_>> = columns.iter().map(|&column| row.cells.get(column)).collect();
        let cells = cells.context("a row is too short")?;
        let snippet = Snippet::of(cells[1], cells[2], cells[3])?;
        if cells[0].codes.is_empty() {
            // The first row is about every server.
            every_server = snippet;
            continue;
        }
        for server in &cells[0].codes {
            workspace.binary(server)?;
            let previous = snippets.insert(server.clone(), snippet.added_to(&every_server));
            ensure!(previous.is_none(), "{server} has two rows");
        }
    }
    Ok(snippets)
}

impl Snippet {
    fn of(files: &Cell, common: &Cell, packages: &Cell) -> Result<Self> {
        let package = Regex::new(r"([a-z0-9_-]+)(?: \(([^)]*)\))?")?;
        let features = |list: &str| list.split(", ").map(str::to_owned).collect();
        let packages = package.captures_iter(&packages.text).map(|parts| {
            (parts[1].to_owned(), parts.get(2).map_or(Vec::new(), |it| features(it.as_str())))
        });
        Ok(Self {
            files: files.codes.iter().map(PathBuf::from).collect(),
            common: common.codes.clone(),
            packages: packages.collect(),
        })
    }

    /// What this row and another one list together.
    fn added_to(&self, other: &Self) -> Self {
        let mut both = other.clone();
        both.files.extend(self.files.clone());
        both.common.extend(self.common.clone());
        for (package, features) in &self.packages {
            both.packages.entry(package.clone()).or_default().extend(features.clone());
        }
        both
    }

    fn stands_alone(&self, server: &Binary, workspace: &Workspace) -> Result<Completion> {
        let folder = tempfile::tempdir()?;
        let sources = self.write(folder.path(), server, workspace)?;
        self.check_all_used(server, &sources)?;
        let program = folder.path().join(&server.name);
        build(folder.path(), server, &program)?;
        if let Some(missing) = server.unavailable() {
            return Ok(Completion::ignored_with(missing));
        }
        serves(server, &program)?;
        Ok(Completion::Completed)
    }

    /// Writes the package and the packages inside its folder. Returns all sources.
    fn write(&self, folder: &Path, server: &Binary, workspace: &Workspace) -> Result<Vec<String>> {
        let mut sources = vec![copy(&server.path, &folder.join("src/main.rs"))?];
        let mut libraries = BTreeSet::from(["common"]);
        for file in &self.files {
            let text = file.to_str().context("the path is not UTF-8")?;
            let (package, path) = text.split_once('/').context("the path has no package")?;
            let inside = if package == server.package {
                folder.join(path)
            } else {
                libraries.insert(package);
                folder.join(text)
            };
            sources.push(copy(file, &inside)?);
        }
        for file in &self.common {
            let path = Path::new("common/src").join(file);
            sources.push(copy(&path, &folder.join(&path))?);
            // The modules inside this one are in the folder with its name.
            let inside = Path::new("common/src").join(file.trim_end_matches(".rs"));
            let Ok(modules) = fs::read_dir(workspace::root().join(&inside)) else { continue };
            for module in modules {
                let path = inside.join(module?.file_name());
                if path.extension().is_some_and(|extension| extension == "rs") {
                    sources.push(copy(&path, &folder.join(&path))?);
                }
            }
        }
        write(&folder.join("common/src/lib.rs"), &self.library()?)?;

        let packages = self.manifest(workspace)?;
        for library in &libraries {
            let common =
                if *library == "common" { "" } else { "common = { path = \"../common\" }\n" };
            let manifest = format!("{}{common}{packages}", head(library));
            write(&folder.join(library).join("Cargo.toml"), &manifest)?;
        }
        let ours = libraries.iter().map(|name| format!("{name} = {{ path = {name:?} }}\n"));
        let manifest = head(&server.package) + &ours.collect::<String>() + &packages;
        write(&folder.join("Cargo.toml"), &manifest)?;
        fs::copy(workspace::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
        Ok(sources)
    }

    /// The lines of `common/src/lib.rs` that name the files.
    fn library(&self) -> Result<String> {
        let source = fs::read_to_string(workspace::root().join("common/src/lib.rs"))?;
        let named = |line: &&str| {
            self.common.iter().any(|file| {
                let module = file.trim_end_matches(".rs");
                line.ends_with(&format!("mod {module};"))
                    || line.starts_with(&format!("pub use {module}::"))
            })
        };
        Ok(source.lines().filter(named).collect::<Vec<_>>().join("\n"))
    }

    /// The dependencies, in the versions of the workspace.
    fn manifest(&self, workspace: &Workspace) -> Result<String> {
        let line = |(package, features): (&String, &Vec<String>)| {
            let known = workspace.dependencies.iter().find(|it| it.name == *package);
            let known =
                known.with_context(|| format!("no package of the workspace uses {package}"))?;
            let (version, default) = (&known.version, known.default_features);
            let options = format!("default-features = {default}, features = {features:?}");
            Ok(format!("{package} = {{ version = {version:?}, {options} }}\n"))
        };
        self.packages.iter().map(line).collect()
    }

    /// Fails if no other part of the snippet uses a file or a dependency.
    fn check_all_used(&self, server: &Binary, sources: &[String]) -> Result<()> {
        let code: Vec<_> = sources.iter().flat_map(|source| source.lines()).collect();
        let code: Vec<_> =
            code.into_iter().filter(|it| !it.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let is_used = |pattern: &str| -> Result<bool> { Ok(Regex::new(pattern)?.is_match(&code)) };
        for package in self.packages.keys() {
            let path = format!(r"\b{}::", package.replace('-', "_"));
            ensure!(is_used(&path)?, "nothing uses {package}");
        }
        for file in &self.files {
            let module = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let package = file.iter().next().and_then(|it| it.to_str()).unwrap_or(&server.package);
            let library = package.replace('-', "_");
            let pattern = match module {
                "lib" => format!(r"\b{library}::"),
                module => format!(r"(?m)^mod {module};"),
            };
            ensure!(is_used(&pattern)?, "nothing uses {}", file.display());
        }
        let library = self.library()?;
        for file in &self.common {
            let module = file.trim_end_matches(".rs");
            let items =
                Regex::new(&format!(r"pub use {module}::\{{?([^}};]*)"))?.captures(&library);
            let items = items.map_or(module.to_owned(), |items| items[1].replace(", ", "|"));
            let imports = format!(r"use common::(?:\{{[^}}]*)?\b(?:{items})\b|crate::{module}::");
            ensure!(is_used(&imports)?, "nothing uses {file}");
        }
        Ok(())
    }
}

fn head(package: &str) -> String {
    format!(
        "[package]\nname = {package:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n"
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("the file has no folder")?)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a file of the workspace, and returns its text.
fn copy(from: &Path, to: &Path) -> Result<String> {
    let path = workspace::root().join(from);
    let source =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", from.display()))?;
    write(to, &source)?;
    Ok(source)
}

/// Builds the package. The dependencies are built once for all packages. Everything else is removed.
fn build(folder: &Path, server: &Binary, program: &Path) -> Result<()> {
    let _alone = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/snippets");
    let cargo = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(workspace::cargo());
        command.current_dir(folder).args(arguments).args(["--offline", "--quiet"]);
        command.args(["--target-dir", target]);
        // The package is not debugged and not built again.
        command.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")]);
        let output = command.output().context("cannot start cargo")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    cargo(&["build"])?;
    let built = Path::new(target).join("debug").join(&server.package);
    fs::copy(built, program).context("the build made no program")?;
    let mut clean = vec!["clean", "--package", &server.package];
    let inside = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
    let inside: Vec<_> = inside.filter_map(|name| name.into_string().ok()).collect();
    for name in inside.iter().filter(|name| folder.join(name).join("Cargo.toml").is_file()) {
        clean.extend(["--package", name]);
    }
    cargo(&clean)
}

/// Checks that the program starts, and serves a client.
fn serves(server: &Binary, program: &Path) -> Result<()> {
    let launch = Launch::new(server.name.clone(), ["127.0.0.1:0"]).program(program);
    launch.serve(|running| server.greet(running.address()))
}
