//! The command line of `trace`: what it prints and how it ends when something is wrong.

use std::process::{Command, Output};

fn trace(arguments: &[&str], path: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trace"));
    command.args(arguments).env("RUST_BACKTRACE", "1");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().expect("it starts")
}

/// Checks that the output is an error message of one line, and returns the line.
fn error(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("trace: ") && text.lines().count() == 1, "{text}");
    text
}

#[test]
fn an_unknown_server_gets_one_line_that_names_the_servers() {
    let text = error(&trace(&["kqueue-echo"], None));
    assert!(text.contains("kqueue-echo") && text.contains("epoll-echo"), "{text}");
}

#[test]
fn a_missing_strace_gets_one_line_that_says_how_to_install_it() {
    let text = error(&trace(&["epoll-echo"], Some("/nonexistent")));
    assert!(text.contains("apt install strace"), "{text}");
}

#[test]
fn a_wrong_command_line_gets_status_2() {
    for arguments in [&[][..], &["--all", "epoll-echo"], &["--no-such-option"]] {
        assert_eq!(trace(arguments, None).status.code(), Some(2), "{arguments:?}");
    }
}
