//! The packages of the repository, as Cargo knows them.

use std::env;
use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use contract::{ChatClient, Client, TIMEOUT, catalog};

/// The repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The Cargo that runs this test.
#[must_use]
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A program of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Its package.
    pub package: String,
    /// Its own name.
    pub name: String,
    /// Its file, from the root.
    pub path: PathBuf,
    /// Whether `cargo run -p PACKAGE` runs it.
    pub is_default: bool,
}

/// A package's need of another one.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// Who needs.
    pub of: String,
    /// Who is needed.
    pub name: String,
    /// Which versions will do.
    pub version: String,
    /// Whether with its default features.
    pub default_features: bool,
}

/// All packages.
#[derive(Debug)]
pub struct Workspace {
    /// Their programs.
    pub binaries: Vec<Binary>,
    /// What they need from elsewhere.
    pub dependencies: Vec<Dependency>,
}

impl Workspace {
    /// Asks Cargo.
    pub fn read() -> Result<Self> {
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
        let output = command.current_dir(root()).output().context("cannot start cargo")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout)?;

        let mut workspace = Self { binaries: Vec::new(), dependencies: Vec::new() };
        for package in list(&metadata["packages"]) {
            workspace.binaries.extend(binaries(package)?);
            workspace.dependencies.extend(list(&package["dependencies"]).iter().filter_map(
                |dependency| {
                    dependency["source"].as_str()?;
                    Some(Dependency {
                        of: text(&package["name"]),
                        name: text(&dependency["name"]),
                        version: text(&dependency["req"]),
                        default_features: dependency["uses_default_features"].as_bool()?,
                    })
                },
            ));
        }
        Ok(workspace)
    }

    /// The program with this name.
    pub fn binary(&self, name: &str) -> Result<&Binary> {
        let found = self.binaries.iter().find(|binary| binary.name == name);
        found.with_context(|| format!("no package has a binary {name:?}"))
    }

    /// What `cargo run -p PACKAGE [--bin NAME]` runs.
    pub fn run(&self, package: &str, name: Option<&str>) -> Result<&Binary> {
        let mut all = self.binaries.iter().filter(|binary| binary.package == package);
        let found = match name {
            Some(name) => all.find(|binary| binary.name == name),
            None => all.find(|binary| binary.is_default),
        };
        found.with_context(|| format!("no such program: {package} {}", name.unwrap_or_default()))
    }

    /// The programs that readers come for: servers, and the modes of communication.
    pub fn servers(&self) -> impl Iterator<Item = &Binary> {
        self.binaries.iter().filter(|binary| {
            let package = &binary.package;
            ["-echo", "-chat"].iter().any(|end| package.ends_with(end))
                || package == "communication-modes"
        })
    }
}

impl Binary {
    /// Whether it is a chat server.
    #[must_use]
    pub fn is_chat(&self) -> bool {
        self.package.ends_with("-chat")
    }

    /// Does with the server at `address`, as its only client, what all of its kind are there for.
    pub fn greet(&self, address: SocketAddr) -> Result<()> {
        if self.is_chat() {
            return ChatClient::new(Client::connect_to(address)?)?.expect_names(&["guest1"]);
        }
        if !self.name.ends_with("-udp") {
            let client = Client::connect_to(address)?;
            client.echo(b"hello\n")?;
            return client.finish();
        }
        let peer = UdpSocket::bind("127.0.0.1:0")?;
        peer.set_read_timeout(Some(TIMEOUT))?;
        peer.connect(address)?;
        peer.send(b"hello")?;
        let mut answer = [0; 10];
        let count = peer.recv(&mut answer).context("no answer")?;
        ensure!(&answer[..count] == b"hello", "another answer");
        Ok(())
    }

    /// What it needs and this machine does not have, if anything.
    #[must_use]
    pub fn unavailable(&self) -> Option<&'static str> {
        catalog::find(&self.name).and_then(|entry| (entry.unavailable)())
    }

    /// Whether it is a demonstration, or one of its parts.
    #[must_use]
    pub fn is_mode(&self) -> bool {
        self.package == "communication-modes"
    }
}

fn binaries(package: &Value) -> Result<Vec<Binary>> {
    let mut binaries = Vec::new();
    for target in
        list(&package["targets"]).iter().filter(|it| list(&it["kind"]).contains(&"bin".into()))
    {
        let path = PathBuf::from(text(&target["src_path"]));
        let path = path.strip_prefix(root()).context("a package outside of the repository")?;
        binaries.push(Binary {
            package: text(&package["name"]),
            name: text(&target["name"]),
            path: path.to_owned(),
            is_default: package["default_run"] == target["name"],
        });
    }
    if let [only] = binaries.as_mut_slice() {
        only.is_default = true;
    }
    Ok(binaries)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
