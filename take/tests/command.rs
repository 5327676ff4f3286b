//! What `take` writes, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;

fn take(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_take")).args(arguments).output()?)
}

fn refused(arguments: &[&str], reason: &str) -> Result<()> {
    let output = take(arguments)?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(reason), "{stderr}");
    Ok(())
}

#[test]
fn leaves_out_what_the_server_does_not_use() -> Result<()> {
    let outside = tempfile::tempdir()?;
    let folder = outside.path().join("my server");
    let folder = folder.to_str().unwrap_or_default();
    let output = take(&["epoll-echo", folder])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |file: &str| fs::read_to_string(Path::new(folder).join(file));
    let socket = read("src/common/socket.rs")?;
    assert!(socket.contains("fn listen("));
    assert!(!socket.contains("UdpSocket"));
    assert!(!Path::new(folder).join("src/common/chat.rs").exists());
    let manifest = read("Cargo.toml")?;
    // The name of the folder cannot be that of a package.
    assert!(manifest.contains("name = \"epoll-echo\""), "{manifest}");
    assert!(
        manifest.contains("features = [\"event\", \"net\", \"poll\", \"signal\"]"),
        "{manifest}"
    );
    Ok(())
}

#[test]
fn a_single_file_needs_no_other() -> Result<()> {
    let outside = tempfile::tempdir()?;
    let folder = outside.path().join("one");
    let output = take(&["--single-file", "select-echo", folder.to_str().unwrap_or_default()])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let main = fs::read_to_string(folder.join("src/main.rs"))?;
    assert!(main.contains("\nmod common {\n"));
    assert_eq!(fs::read_dir(folder.join("src"))?.count(), 1);
    Ok(())
}

#[test]
fn an_unknown_server_is_refused() -> Result<()> {
    let outside = tempfile::tempdir()?;
    let folder = outside.path().join("new");
    let folder = folder.to_str().unwrap_or_default();
    refused(
        &["epol-echo", folder],
        "there is no server \"epol-echo\"; the servers are blocking-echo",
    )
}

#[test]
fn a_folder_with_files_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("file"), "")?;
    refused(&["epoll-echo", folder.path().to_str().unwrap_or_default()], "is not empty")
}

#[test]
fn a_folder_inside_the_workspace_is_refused() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/new");
    refused(&["epoll-echo", folder], "is inside this workspace")
}

#[test]
fn a_chat_does_not_fit_into_one_file() -> Result<()> {
    let outside = tempfile::tempdir()?;
    let folder = outside.path().join("new");
    let folder = folder.to_str().unwrap_or_default();
    refused(&["--single-file", "reactor-chat", folder], "leave out --single-file")
}
