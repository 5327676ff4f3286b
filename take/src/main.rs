//! `take SERVER FOLDER`: writes a server as a package of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use take::{Layout, Package, check_folder};

/// Writes one server of this workspace as a package that stands alone.
///
/// The package has the server as src/main.rs, the parts of the libraries that it uses as modules, a
/// Cargo.toml with the dependencies that these need, and the license (0BSD: no notice is needed).
#[derive(Parser)]
struct Options {
    /// The server, for example epoll-echo
    server: String,
    /// The folder for the package. It must be empty or not exist
    folder: PathBuf,
    /// The name of the package [default: the name of the folder]
    #[arg(long)]
    name: Option<String>,
    /// Put all code into src/main.rs
    #[arg(long)]
    single_file: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("take: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let name = match &options.name {
        Some(name) => {
            anyhow::ensure!(is_name(name), "{name:?} cannot be the name of a package");
            name
        }
        None => name_of(&options.folder).unwrap_or(&options.server),
    };
    let layout = if options.single_file { Layout::SingleFile } else { Layout::Modules };
    check_folder(&options.folder)?;
    let package = Package::new(&options.server, name, layout)?;
    package.write(&options.folder)?;
    for (path, text) in &package.files {
        if path.extension().is_some_and(|extension| extension == "rs") {
            println!("{:>6} lines  {}", text.lines().count(), path.display());
        }
    }
    println!("\n  cd {}", quoted(&options.folder));
    println!("  cargo run");
    Ok(())
}

/// The name of the folder, if it can be that of a package.
fn name_of(folder: &Path) -> Option<&str> {
    folder.file_name()?.to_str().filter(|name| is_name(name))
}

/// Cargo permits no others as names of programs. (A package cannot have the name of a dependency.)
fn is_name(name: &str) -> bool {
    let taken = ["anyhow", "core", "io-uring", "libc", "log", "nix", "polling", "std", "test"];
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|it| it.is_ascii_alphanumeric() || "-_".contains(it))
        && !taken.contains(&name)
        && !["signal-hook", "socket2", "env_logger"].contains(&name)
}

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |it: char| it.is_alphanumeric() || "/._-".contains(it);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}
