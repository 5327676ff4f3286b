//! `bench` from outside: what it writes, not how fast anything is.

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

const SERVERS: [&str; 2] = ["epoll-echo", "baseline-epoll"];

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).env("RUST_BACKTRACE", "1");
    command
}

/// A short run with two servers.
fn short_run(out: &Path) -> Command {
    let servers = SERVERS.join(",");
    let mut command = bench(&["--quick", "--servers", &servers, "--scenario", "active", "--out"]);
    command.arg(out);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("bench starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows(dir: &Path) -> Vec<HashMap<String, String>> {
    let mut samples = csv::Reader::from_path(dir.join("samples.csv")).expect("there are samples");
    samples.deserialize().map(|row| row.expect("it is a row")).collect()
}

#[test]
fn a_short_run_writes_samples_a_page_and_plots() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("samples.csv"), "of an earlier run\n").expect("it can be written");
    let output = run(&mut short_run(dir.path()));
    let terminal = stdout(&output);
    assert!(output.status.success(), "{terminal}{}", stderr(&output));
    assert!(terminal.contains("replaces the samples"), "{terminal}");
    for line in terminal.lines().filter(|line| !line.contains(&*dir.path().to_string_lossy())) {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line:?}");
    }

    let page = read(dir.path().join("README.md"));
    for server in SERVERS {
        assert!(terminal.contains(server), "{terminal}");
        assert!(page.contains(&format!("| {server} ")), "{page}");
    }
    let rows = rows(dir.path());
    let counted = rows.iter().any(|row| !row["calls"].is_empty());
    assert_eq!(counted, !page.contains("System calls: not counted"), "{page}");
    let mut plots = vec!["active", "latency"];
    plots.extend(counted.then_some("calls"));
    for plot in plots {
        assert!(page.contains(&format!("({plot}.svg)")), "{page}");
        let svg = read(dir.path().join(format!("{plot}.svg")));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(SERVERS.iter().all(|server| svg.contains(server)), "{svg}");
    }
    assert!(!page.contains("idle.svg"), "no workload had idle connections");

    for row in &rows {
        let number = |column: &str| row[column].parse::<f64>().expect("it is a number");
        assert!(SERVERS.contains(&row["server"].as_str()), "{row:?}");
        // On a busy machine a sample may be disturbed, but not wrong.
        assert!(["ok", "disturbed"].contains(&row["outcome"].as_str()), "{row:?}");
        if row["messages"] == "0" {
            // The machine was so busy that no message came back in time.
            assert_eq!(row["outcome"], "disturbed", "{row:?}");
            continue;
        }
        assert!(number("cpu_us") > 0.0, "{row:?}");
        assert!(number("p50_us") <= number("p99_us"), "{row:?}");
        // At least a read and a write.
        assert!(row["calls"].is_empty() || number("calls") > 1.9, "{row:?}");
    }
    assert!(rows.len() >= 2 * 4, "two servers with 1, 8, 64 and 512 connections");
}

#[test]
fn connections_loops_and_computations_have_tables() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let scenarios = ["--quick", "--scenario", "churn,cores,compute"];
    let mut command = bench(&scenarios);
    command.args(["--servers", "epoll-echo,reactor-chat", "--out"]).arg(dir.path());
    let output = run(&mut command);
    let terminal = stdout(&output);
    assert!(output.status.success(), "{terminal}{}", stderr(&output));
    let page = read(dir.path().join("README.md"));
    for title in
        ["Short connections, 64 at a time", "Several loops", "While another client computes"]
    {
        assert!(page.contains(&format!("\n## {title}")), "{page}");
    }
    let rows = rows(dir.path());
    let row = |workload: &str, server: &str| {
        let is_wanted = |row: &&HashMap<String, String>| {
            row["workload"] == workload && row["server"] == server && row["outcome"] != "skipped"
        };
        rows.iter().find(is_wanted).unwrap_or_else(|| panic!("no {workload}: {rows:?}"))
    };
    let number = |row: &HashMap<String, String>, column: &str| {
        row[column].parse::<f64>().unwrap_or_else(|_| panic!("no {column}: {row:?}"))
    };
    // On a very busy machine there may be no message at all in so short a time.
    let churn = row("short connections, 64 at a time", "epoll-echo");
    assert!(number(churn, "messages") == 0.0 || number(churn, "cpu_us") > 0.0, "{churn:?}");
    // These are counted where the kernel permits it.
    for column in ["busiest", "in_vain"].into_iter().filter(|&column| !churn[column].is_empty()) {
        assert!(number(churn, column) >= 0.0, "{churn:?}");
    }
    let loops = row("1 loop on 1 core", "epoll-echo");
    let has_one_thread = loops["busiest"].is_empty() || loops["busiest"] == "1.0";
    assert!(has_one_thread, "{loops:?}");
    let computing = row("computations of 10 ms, 1 core", "reactor-chat");
    assert!(number(computing, "computations") >= 0.0, "{computing:?}");
    assert!(number(computing, "p50_us") <= number(computing, "p99_us"), "{computing:?}");
    // A workload that needs more cores than there are says how many.
    let skipped = rows.iter().filter(|row| row["outcome"] == "skipped");
    for row in skipped {
        assert!(row["note"].starts_with("needs "), "{row:?}");
    }
}

/// A `PATH` with everything that the usual one has, except these programs.
fn path_without(programs: &[&str], dir: &Path) -> String {
    let path = env::var_os("PATH").expect("there is a PATH");
    let mut folders: Vec<PathBuf> = Vec::new();
    for (index, folder) in env::split_paths(&path).enumerate() {
        if !programs.iter().any(|program| folder.join(program).exists()) {
            folders.push(folder);
            continue;
        }
        let copy = dir.join(index.to_string());
        fs::create_dir(&copy).expect("it can be created");
        for entry in fs::read_dir(&folder).expect("it can be read").flatten() {
            let name = entry.file_name();
            if !programs.iter().any(|program| name == *program) {
                symlink(entry.path(), copy.join(name)).expect("it can be created");
            }
        }
        folders.push(copy);
    }
    let joined = env::join_paths(folders).expect("no folder has a colon in its name");
    joined.into_string().expect("the folders have names in UTF-8")
}

#[test]
fn without_perf_and_strace_it_says_that_system_calls_are_not_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let programs = tempfile::tempdir().expect("a temporary directory");
    let path = path_without(&["perf", "strace"], programs.path());
    let output = run(short_run(dir.path()).env("PATH", path));
    let terminal = stdout(&output);
    assert!(output.status.success(), "{terminal}{}", stderr(&output));
    assert!(terminal.contains("System calls are not counted"), "{terminal}");
    assert!(read(dir.path().join("README.md")).contains("System calls: not counted"));
    assert!(!dir.path().join("calls.svg").exists());
    assert!(rows(dir.path()).iter().all(|row| row["calls"].is_empty()), "never 0");
}

#[test]
fn an_interrupted_run_leaves_the_earlier_samples() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let samples = dir.path().join("samples.csv");
    fs::write(&samples, "of an earlier run\n").expect("it can be written");
    let mut child = short_run(dir.path()).stdout(Stdio::null()).spawn().expect("bench starts");
    // Cargo may have to build the servers first.
    let deadline = Instant::now() + Duration::from_secs(300);
    while !dir.path().join("samples.new.csv").exists() {
        assert!(Instant::now() < deadline, "no sample was taken");
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    assert_eq!(read(samples), "of an earlier run\n");
}

#[test]
fn no_rounds_are_refused_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let samples = dir.path().join("samples.csv");
    fs::write(&samples, "of an earlier run\n").expect("it can be written");
    let output = run(short_run(dir.path()).args(["--rounds", "0"]));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(read(samples), "of an earlier run\n");
    assert!(!dir.path().join("README.md").exists());
}

#[test]
fn a_mistake_gets_one_line_without_a_backtrace() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("it can be written");
    let below_a_file = file.join("folder").display().to_string();
    let no_samples = dir.path().display().to_string();
    for (arguments, expected) in [
        (["--servers", "kqueue-echo"], "epoll-echo"),
        (["--out", &below_a_file], "cannot create"),
        (["--page", &no_samples], "cannot read"),
    ] {
        let output = run(&mut bench(&arguments));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.starts_with("bench: ") && text.lines().count() == 1, "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn the_pages_in_docs_are_made_from_the_samples_in_docs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks");
    let mut folders = vec![docs.clone()];
    for entry in fs::read_dir(&docs).expect("it can be read").flatten() {
        folders.extend(entry.path().is_dir().then(|| entry.path()));
    }
    for docs in folders {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for input in ["samples.csv", "run.json"] {
            fs::copy(docs.join(input), dir.path().join(input)).expect("it can be copied");
        }
        let output = run(bench(&["--page"]).arg(dir.path()));
        assert!(output.status.success(), "{}", stderr(&output));
        for entry in fs::read_dir(dir.path()).expect("it can be read").flatten() {
            let name = entry.file_name();
            let is_same = read(entry.path()) == read(docs.join(&name));
            assert!(is_same, "run `cargo run -p bench -- --page {}` for {name:?}", docs.display());
        }
    }
}
