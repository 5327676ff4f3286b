//! The `Cargo.toml` of the new package.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::Dependency;

/// Modules and functions of nix, and the feature that each of them needs.
const NIX: [(&str, &str); 15] = [
    ("cmsg_space", "uio"),
    ("net", "net"),
    ("poll", "poll"),
    ("sys::epoll", "event"),
    ("sys::eventfd", "event"),
    ("sys::mman", "mman"),
    ("sys::select", "poll"),
    ("sys::signal", "signal"),
    ("sys::socket", "socket"),
    ("sys::socket::recvmsg", "uio"),
    ("sys::socket::sendmsg", "uio"),
    ("sys::time", "time"),
    ("sys::uio", "uio"),
    ("sys::wait", "process"),
    ("unistd", "process"),
];

/// Returns the text of the manifest, with those of the `known` dependencies that `paths` use.
pub fn write(
    name: &str,
    server: &str,
    known: &[&Dependency],
    paths: &BTreeSet<Vec<String>>,
) -> String {
    let mut dependencies: BTreeMap<&str, (&Dependency, BTreeSet<&str>)> = BTreeMap::new();
    for dependency in known {
        let module = dependency.name.replace('-', "_");
        if !paths.iter().any(|path| path[0] == module) {
            continue;
        }
        let features = &mut dependencies
            .entry(&dependency.name)
            .or_insert_with(|| (dependency, BTreeSet::new()))
            .1;
        let features_used = dependency.features.iter().map(String::as_str);
        features.extend(features_used.filter(|it| dependency.name != "nix" || needs(paths, it)));
    }
    let mut text = format!(
        "[package]\nname = {name:?}\ndescription = \"{server}, taken from \\\"Linux I/O models, one small \
         server each\\\"\"\nversion = \"0.1.0\"\nedition = \"2024\"\nrust-version = \"1.85\"\n\
         license = \"0BSD\"\n\n[dependencies]\n"
    );
    for (name, (dependency, features)) in dependencies {
        text += &line(name, dependency, &features);
    }
    text
}

fn line(name: &str, dependency: &Dependency, features: &BTreeSet<&str>) -> String {
    let version = &dependency.version;
    if dependency.default_features && features.is_empty() {
        return format!("{name} = {version:?}\n");
    }
    let mut line = format!("{name} = {{ version = {version:?}");
    if !dependency.default_features {
        line += ", default-features = false";
    }
    if !features.is_empty() {
        line +=
            &format!(", features = {features:?}").replace(['{', '}'], "|").replacen('|', "[", 1);
        line = line.trim_end_matches('|').to_owned() + "]";
    }
    line + " }\n"
}

/// Returns whether one of the paths needs this feature of nix.
fn needs(paths: &BTreeSet<Vec<String>>, feature: &str) -> bool {
    let paths = paths.iter().filter(|path| path[0] == "nix").map(|path| path[1..].join("::"));
    let mut modules = paths.flat_map(|path| {
        NIX.iter()
            .filter(move |(module, _)| path == *module || path.starts_with(&format!("{module}::")))
    });
    modules.any(|(_, needed)| *needed == feature)
}
