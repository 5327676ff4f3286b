//! `docs/errors.md`: generated from the table, and compared with it.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::table::{CANNOT_HAPPEN, NOT_INJECTED, ROWS};

const HEAD: &str = "\
# What a system call may return, and what to do about it

This page answers: `accept`, `read` or `epoll_wait` failed with this error, so what does a server do now? It
holds for all servers of this workspace. The last column names the servers to which a row applies.

A test keeps the page true: `cargo test --test faults` makes these calls fail in each server, with strace, at the
first, second, third … call of a thread, and then at every call, while clients use the server. Then it checks the
[contract](contract.md): every other client's bytes arrive complete and in order, nothing hangs or spins, file descriptors
return, a new client is served, and SIGTERM ends the server with status 0. (`cargo test --test faults` takes a sample that
changes from day to day; `FAULTS=all cargo test --release --test faults` injects every fault.)

Before a server has announced that it listens, one rule holds for all calls: it ends with one line on stderr that names the
call, and with status 1.

Short counts from `read` and `write`, and spurious readiness, are not errors. They are tested too
(`short_counts::SERVER`, `spurious::SERVER`): a server behaves as always.
";

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("page::errors_md", || compare().map_err(|error| format!("{error:#}").into()))]
}

fn compare() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let page = page()?;
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, page)?;
        return Ok(());
    }
    let current = fs::read_to_string(path)?;
    ensure!(
        current == page,
        "docs/errors.md differs from the table: run UPDATE_DOCS=1 cargo test --test faults page"
    );
    Ok(())
}

fn page() -> Result<String> {
    let mut page = HEAD.to_owned();
    page +=
        "\n| call | error | what the server does | because | applies to |\n|---|---|---|---|---|\n";
    for row in ROWS {
        let errors: Vec<_> = row.errors.iter().map(|error| format!("`{error}`")).collect();
        let only: Vec<_> = row.only.iter().map(|name| format!("`{name}`")).collect();
        let only = if only.is_empty() { "all that call it".to_owned() } else { only.join(", ") };
        writeln!(
            page,
            "| `{}` | {} | {} | {} | {only} |",
            row.name(),
            errors.join(", "),
            row.response.words(),
            row.why
        )?;
    }
    page += "\n## Calls that are not made to fail\n\n| calls | reason |\n|---|---|\n";
    for (calls, reason) in NOT_INJECTED {
        let calls: Vec<_> = calls.split(' ').map(|call| format!("`{call}`")).collect();
        writeln!(page, "| {} | {reason} |", calls.join(", "))?;
    }
    page += "\n## Faults that a kernel cannot produce here\n\n| fault | reason |\n|---|---|\n";
    for (fault, reason) in CANNOT_HAPPEN {
        writeln!(page, "| {fault} | {reason} |")?;
    }
    Ok(page)
}
