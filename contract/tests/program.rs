//! The program `contract`: its options, its report, its messages and its exit status.

mod common;

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use common::{output_of, processes, program, run, server, wait_until};
use contract::Launch;
use serde_json::{Value, json};

/// The shortest case.
const CASE: &str = "half_close::nothing";

#[test]
fn a_kept_case_ends_with_status_0() -> Result<()> {
    let output = run(&["--only", CASE, "--", &server("epoll-echo")?, "{addr}"])?;
    output.expect(0, &["half-close", "1 of 1", "kept", "epoll-echo: 1 cases kept, 0 not kept"])
}

#[test]
fn a_failing_case_ends_with_status_1_and_names_the_pitfall() -> Result<()> {
    let server = server("hangup-closes")?;
    let case = "half_close::data_and_fin_at_once";
    let output = run(&["--timeout", "1", "--only", case, "--", &server, "{addr}"])?;
    output.expect(
        1,
        &[&format!("NOT KEPT {case}"), "fails like `hangup-closes`", "pitfalls/src/bin"],
    )?;
    let repeat = output.stdout.lines().find(|line| line.contains("repeat")).context("no repeat")?;
    let words = format!("--only {case} --trace --timeout 1 -- {server} {{addr}}");
    ensure!(repeat.ends_with(&words), "{repeat:?} does not end with {words:?}");
    Ok(())
}

#[test]
fn json_and_junit_contain_the_verdicts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (json, junit) = (folder.path().join("a.json"), folder.path().join("a.xml"));
    let files = [json.to_string_lossy(), junit.to_string_lossy()];
    // What the server logs is quoted, although XML forbids some of these characters.
    let script = r#"printf '\033[31m<&>"\001\377\n' >&2; exec "$0" "$1""#;
    let output = run(&[
        "--timeout",
        "1",
        "--json",
        &files[0],
        "--junit",
        &files[1],
        "--only",
        CASE,
        "--only",
        "half_close::data_and_fin_at_once",
        "--only",
        "closing",
        "--",
        "sh",
        "-c",
        script,
        &server("pending-output-dropped-at-eof")?,
        "{addr}",
    ])?;
    output.expect(1, &[])?;

    let mut written: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let seen = written["lines"][0]["cases"][1]["seen"].take();
    let seen = seen.as_str().context("nothing was seen")?;
    ensure!(seen.starts_with("after 1 bytes and FIN: the connection ended"), "seen: {seen:?}");
    for line in written["lines"].as_array_mut().context("no lines")? {
        for case in line["cases"].as_array_mut().context("no cases")? {
            ensure!(case["seconds"].take().is_f64(), "a case took no time");
            case["expected"].take();
        }
        line["expected"].take();
    }
    let command = written["command"].take();
    ensure!(command.as_str().is_some_and(|it| it.starts_with("sh -c 'printf")), "{command}");
    let never = "the server never closes a connection first";
    let case = |name: &str, verdict: &str, reason: Option<&str>, like: &[&str]| {
        json!({
            "name": name, "verdict": verdict, "expected": null, "seen": null,
            "left_out_because": reason, "builds_on_line_not_kept": null, "fails_like": like,
            "seconds": null,
        })
    };
    let like = ["hangup-closes", "pending-output-dropped-at-eof"];
    let expected = json!({
        "server": "sh", "command": null, "kept": false,
        "lines": [
            { "name": "half_close", "verdict": "NOT KEPT", "expected": null, "cases": [
                case("nothing", "kept", None, &[]),
                case("data_and_fin_at_once", "NOT KEPT", None, &like),
            ]},
            { "name": "closing", "verdict": "-", "expected": null, "cases": [
                case("late_input", "-", Some(never), &[]),
                case("late_input_small_window", "-", Some(never), &[]),
            ]},
        ],
    });
    ensure!(written == expected, "{written:#}");
    check_junit(&fs::read_to_string(&junit)?, never)
}

fn check_junit(text: &str, never: &str) -> Result<()> {
    let document = roxmltree::Document::parse(text).context(text.to_owned())?;
    let root = document.root_element();
    ensure!(root.has_tag_name("testsuites"), "the root is {root:?}");
    let counts = ["tests", "failures"].map(|name| root.attribute(name));
    ensure!(counts == [Some("4"), Some("1")], "{counts:?}");
    let cases = root.descendants().filter(|node| node.has_tag_name("testcase"));
    let found: Vec<_> = cases
        .map(|case| {
            let content = case.children().find(roxmltree::Node::is_element);
            let name = (case.attribute("classname"), case.attribute("name"));
            let message = content.and_then(|it| it.attribute("message"));
            (name, content.map(|it| it.tag_name().name()), message)
        })
        .collect();
    let name = |line, case| (Some(line), Some(case));
    let promise = "a request and FIN that arrive together are answered, and then EOF";
    let expected = [
        (name("half_close", "nothing"), None, None),
        (name("half_close", "data_and_fin_at_once"), Some("failure"), Some(promise)),
        (name("closing", "late_input"), Some("skipped"), Some(never)),
        (name("closing", "late_input_small_window"), Some("skipped"), Some(never)),
    ];
    ensure!(found == expected, "{found:#?}");
    let failure = root.descendants().find(|node| node.has_tag_name("failure"));
    let text = failure.and_then(|it| it.text()).unwrap_or_default();
    ensure!(text.contains("after 1 bytes and FIN") && text.contains("<&>\""), "{text:?}");
    Ok(())
}

#[test]
fn a_line_that_follows_from_another_is_not_judged() -> Result<()> {
    let server = server("write-ignored")?;
    let cases = ["--only", "integrity::large", "--only", "half_close::large"];
    let output = run(&[&["--timeout", "1"], &cases[..], &["--", &server, "{addr}"]].concat())?;
    output.expect(
        1,
        &[
            "NOT KEPT integrity::large",
            "NOT JUDGED half_close::large: it builds on integrity, which is not kept",
        ],
    )
}

#[test]
fn a_server_that_cannot_start_ends_with_status_2() -> Result<()> {
    run(&["--", "/no/such/server", "{addr}"])?
        .expect(2, &["contract: cannot start the server", "No such file"])?;
    run(&["--", "sh", "-c", "echo no configuration >&2; exit 3", "{addr}"])?
        .expect(2, &["has ended before it listened", "exit status: 3", "no configuration"])
}

#[test]
fn a_server_that_listens_elsewhere_ends_with_status_2() -> Result<()> {
    let server = server("epoll-echo")?;
    run(&["--", "sh", "-c", r#""$0" 127.0.0.1:0"#, &server, "{addr}"])?
        .expect(2, &["for the server to listen on 127.0.0.1:", "It listens on 127.0.0.1:"])
}

#[test]
fn wrong_arguments_end_with_status_2() -> Result<()> {
    let server = server("epoll-echo")?;
    run(&["--", &server])?.expect(2, &["{addr}", "{port}"])?;
    run(&["--only", "half_closed", "--", &server, "{addr}"])?
        .expect(2, &["there is no case half_closed", "--list"])?;
    run(&["--frobnicate"])?.expect(2, &["--frobnicate", "Usage"])?;
    run(&[])?.expect(2, &["Usage"])?;
    run(&["--send", "ping", "--", &server, "{addr}"])?.expect(2, &["--expect"])?;
    run(&["--send", r"\xzz", "--expect", "x", "--", &server, "{addr}"])?.expect(2, &["--send"])?;
    run(&["--connect", "127.0.0.1:7000", "--", &server])?.expect(2, &["--connect"])?;
    run(&["--max-concurrent", "0", "--", &server, "{addr}"])?.expect(2, &["must not be 0"])
}

#[test]
fn a_server_with_another_protocol_is_reported() -> Result<()> {
    let server = server("epoll-echo")?;
    run(&["--probe", "redis", "--timeout", "1", "--", &server, "{addr}"])?
        .expect(2, &["does not respond as expected; is --probe right?"])
}

#[test]
fn help_and_list_end_with_status_0() -> Result<()> {
    run(&["--help"])?.expect(0, &["Usage: contract", "Exit status", "--junit"])?;
    let output = run(&["--list"])?;
    output.expect(0, &["half_close::small (--quick)", "accept::out_of_descriptors"])?;
    ensure!(!output.stdout.contains("start::unparsable"), "it lists cases of this workspace");
    Ok(())
}

#[test]
fn a_protocol_of_your_own_is_checked() -> Result<()> {
    let server = server("epoll-echo")?;
    let words = ["--send", r"ping\n", "--expect", r"^ping\n", "--only", "half_close::small"];
    run(&[&words[..], &["--", &server, "{addr}"]].concat())?.expect(0, &["1 cases kept"])
}

#[test]
fn trace_shows_the_conversation() -> Result<()> {
    let server = server("epoll-echo")?;
    run(&["--trace", "--only", CASE, "--", &server, "{addr}"])?
        .expect(0, &["== half_close::nothing", "listens on", "sent FIN", "received EOF"])
}

#[test]
fn a_server_in_the_background_is_reported_and_killed() -> Result<()> {
    let in_path = |folder: PathBuf| folder.join("setsid").exists();
    if !env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(in_path) {
        eprintln!("skipped: this machine has no setsid(1)");
        return Ok(());
    }
    // The argument makes it possible to find the process.
    let mark = format!("in-the-background-{}", std::process::id());
    let script = format!("RUST_LOG={mark} setsid \"$0\" \"$1\" >/dev/null 2>&1 & exit 0");
    let output = run(&["--", "sh", "-c", &script, &server("epoll-echo")?, "{addr}"])?;
    output.expect(2, &["it has put the server into the background"])?;
    let address =
        output.stderr.split("listens on ").nth(1).and_then(|rest| rest.split(": ").next());
    let address = address.context("the message names no address")?;
    TcpListener::bind(address).with_context(|| format!("{address} is still in use"))?;
    Ok(())
}

/// A container without an init process is like this: getsid(2) returns 0.
#[test]
fn it_works_where_the_leader_of_its_session_is_in_another_pid_namespace() -> Result<()> {
    let options = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let allowed = Command::new("unshare").args(options).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not create a PID namespace, or there is no unshare(1)");
        return Ok(());
    }
    let server = server("epoll-echo")?;
    let mut command = Command::new("unshare");
    command.args(options).arg(env!("CARGO_BIN_EXE_contract"));
    let cases = ["--only", "half_close", "--only", "shutdown::sigterm_no_client"];
    command.args(cases).args(["--", &server, "{addr}"]);
    output_of(&mut command)?.expect(0, &["7 cases kept, 0 not kept"])
}

#[test]
fn a_server_that_prints_without_end_is_served() -> Result<()> {
    let script = r#"yes & exec "$0" "$1""#;
    run(&["--only", CASE, "--", "sh", "-c", script, &server("epoll-echo")?, "{addr}"])?
        .expect(0, &["1 cases kept"])
}

#[test]
fn a_server_that_dies_is_reported() -> Result<()> {
    let case = "accept::out_of_descriptors";
    let server = server("accept-error-ends")?;
    run(&["--timeout", "1", "--only", case, "--", &server, "{addr}"])?
        .expect(1, &["The server has ended: exit status: 1", "fails like `accept-error-ends`"])
}

#[test]
fn a_server_that_ignores_sigterm_is_reported_and_killed() -> Result<()> {
    let mark = format!("127.0.0.2:{}", 20_000 + std::process::id() % 10_000);
    let script = r#"trap '' TERM INT; "$0" "$1" & wait; wait"#;
    let case = "shutdown::sigterm_no_client";
    let output = run(&[
        "--addr",
        &mark,
        "--timeout",
        "0.5",
        "--stop",
        "0.2",
        "--only",
        case,
        "--",
        "sh",
        "-c",
        script,
        &server("epoll-echo")?,
        &mark,
    ])?;
    output.expect(1, &["the server has not ended after 0.5 s, and was killed"])?;
    ensure!(processes(&mark)?.is_empty(), "a process of the server is left");
    Ok(())
}

#[test]
fn connect_says_what_it_leaves_out() -> Result<()> {
    server("epoll-echo")?;
    let running = Launch::new("epoll-echo", ["127.0.0.1:0"]).start()?;
    let address = running.address().to_string();
    let output = run(&["--connect", &address, "--only", "half_close"])?;
    output.expect(0, &["does not run with --connect: half_close::data_and_fin_at_once"])?;
    ensure!(!running.has_ended()?, "the server has ended");
    drop(running);
    run(&["--connect", &address])?.expect(2, &[&format!("cannot reach a server at {address}")])
}

#[test]
fn an_interrupt_ends_everything_that_was_started() -> Result<()> {
    let mark = format!("127.0.0.3:{}", 20_000 + std::process::id() % 10_000);
    let server = server("epoll-echo")?;
    let arguments = ["--addr", &mark, "--", "sh", "-c", r#""$0" "$1" & wait"#, &server, &mark];
    let child = program(&arguments).spawn()?;
    wait_until("the server to start", || Ok(processes(&mark)?.len() == 2))?;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.code() == Some(130), "it ended with {}", output.status);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(message.contains("interrupted; the servers that it started are killed"), "{message}");
    wait_until("the server to end", || Ok(processes(&mark)?.is_empty()))
}

#[test]
fn the_workflow_of_the_documentation_is_valid_yaml() -> Result<()> {
    for page in ["contract.md", "contract.zh-CN.md"] {
        let page = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&page).context(page.clone())?;
        let block = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
        let workflow: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(block.context("no workflow")?)?;
        let steps = workflow["jobs"]["contract"]["steps"].as_sequence().context("no steps")?;
        let runs = steps.iter().filter_map(|step| step["run"].as_str());
        let check = runs.filter(|run| run.contains("-p contract -- --junit contract.xml -- "));
        ensure!(check.count() == 1, "{page} does not run `contract`");
    }
    Ok(())
}
