//! The packages of the workspace and their dependencies, as `cargo metadata` reports them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A dependency on a crate from outside of the workspace.
#[derive(Clone, Debug)]
pub struct Dependency {
    pub name: String,
    pub version: String,
    pub features: Vec<String>,
    pub default_features: bool,
}

/// A package of the workspace.
#[derive(Debug)]
pub struct Package {
    pub name: String,
    /// The file of its library, if it has one.
    pub library: Option<PathBuf>,
    /// Its binaries: name and file.
    pub binaries: Vec<(String, PathBuf)>,
    pub dependencies: Vec<Dependency>,
}

/// Returns the folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Returns all packages of the workspace.
pub fn packages() -> Result<Vec<Package>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
    let output = command.current_dir(root()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(list(&metadata["packages"]).iter().map(package).collect())
}

fn package(package: &Value) -> Package {
    let targets = |kind: &'static str| {
        let targets = list(&package["targets"]).iter();
        let targets = targets.filter(move |target| list(&target["kind"]).contains(&kind.into()));
        targets.map(|target| (text(&target["name"]), PathBuf::from(text(&target["src_path"]))))
    };
    // `path` marks a package of this workspace, and `kind` a dependency of the tests.
    let dependencies = list(&package["dependencies"]).iter();
    let dependencies = dependencies.filter(|it| it["path"].is_null() && it["kind"].is_null());
    Package {
        name: text(&package["name"]),
        library: targets("lib").next().map(|(_, path)| path),
        binaries: targets("bin").collect(),
        dependencies: dependencies.map(dependency).collect(),
    }
}

fn dependency(dependency: &Value) -> Dependency {
    Dependency {
        name: text(&dependency["name"]),
        version: text(&dependency["req"]).trim_start_matches('^').to_owned(),
        features: list(&dependency["features"]).iter().map(text).collect(),
        default_features: dependency["uses_default_features"] == true,
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
