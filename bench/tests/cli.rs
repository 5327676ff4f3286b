//! `lab bench` from outside: what it writes, not how fast anything is.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::{fs, io};

const SERVERS: [&str; 2] = ["epoll-echo", "baseline-epoll"];

fn bench(arguments: &[&str], out: &Path) -> io::Result<Output> {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_bench"));
    lab.args(["--quick", "--out"]).arg(out).args(arguments).output()
}

#[test]
fn measures_two_servers_under_one_scenario() {
    let dir = tempfile::tempdir().expect("a directory");
    let servers = SERVERS.join(",");
    let output = bench(&["--servers", &servers, "--scenario", "active"], dir.path()).expect("lab");
    let terminal = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{terminal}{errors}");

    let page = fs::read_to_string(dir.path().join("README.md")).expect("a page");
    for server in SERVERS {
        assert!(terminal.contains(server), "{terminal}");
        assert!(page.contains(&format!("| {server} ")), "{page}");
    }
    for plot in ["active", "latency", "calls"] {
        assert!(page.contains(&format!("({plot}.svg)")), "{page}");
        let svg = fs::read_to_string(dir.path().join(format!("{plot}.svg"))).expect("a plot");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(SERVERS.iter().all(|server| svg.contains(server)), "{svg}");
    }
    assert!(!page.contains("idle.svg"), "there was no such scenario");

    let mut samples = csv::Reader::from_path(dir.path().join("samples.csv")).expect("samples");
    let mut loads = 0;
    for row in samples.deserialize::<HashMap<String, String>>() {
        let row = row.expect("a row");
        let number = |column: &str| row[column].parse::<f64>().expect("a number");
        assert!(SERVERS.contains(&row["server"].as_str()), "{row:?}");
        // On a machine with other work a sample may be disturbed, but not wrong.
        assert!(["ok", "disturbed"].contains(&row["outcome"].as_str()), "{row:?}");
        loads += 1;
        if row["messages"] == "0" {
            // So busy that nothing came back in time.
            assert_eq!(row["outcome"], "disturbed", "{row:?}");
            continue;
        }
        assert!(number("cpu_us") > 0.0, "{row:?}");
        assert!(number("p50_us") <= number("p99_us"), "{row:?}");
        // A read and a write at least, if they may be counted here.
        assert!(row["calls"].is_empty() || number("calls") > 1.9, "{row:?}");
    }
    assert!(loads >= 2 * 4, "two servers with 1, 8, 64 and 512 connections");
}

#[test]
fn names_the_servers_where_it_does_not_know_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = bench(&["--servers", "kqueue-echo"], dir.path()).expect("lab");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("kqueue-echo") && errors.contains("epoll-echo"), "{errors}");
}
