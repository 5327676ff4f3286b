//! `docs/errors.md`: generated from the table, and compared with it.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::table::{CANNOT_HAPPEN, NOT_INJECTED, ROWS};

const HEAD: &str = "\
# What a system call may return, and what to do about it

`accept`, `read`, or `epoll_wait` has failed with an error: what does a server do now? This page gives the answer for
all servers of this workspace. The last column names the servers to which a row applies.

A test keeps the page true. `cargo test --test faults` runs each server under strace, which makes these calls fail while
clients use the server: first one call of a thread (the first, the second, and so on), then every call. The test then checks
the [contract](contract.md): the bytes of all other clients arrive complete and in order, nothing hangs or spins, the file
descriptors are closed, a new client is served, and SIGTERM ends the server with status 0. Each run takes a sample of the
faults, which changes from day to day. `FAULTS=all cargo test --release --test faults` injects all of them.

Until a server has announced that it listens, one rule holds for all calls: if one fails, the server ends with one line on
stderr that names the call, and with status 1.

Three results are no errors, and the table does not contain them:

- EAGAIN from a non-blocking socket: no connection is waiting, no data has arrived, or the send buffer is full. The server
  waits until the socket is ready. io_uring and POSIX AIO wait in the kernel or in a helper thread instead.
- A short count: `read` or `write` transfers fewer bytes than it could. The server continues with the rest. The tests
  `short_counts::SERVER` check this.
- Spurious readiness: the wait reports a socket, but the call on it returns EAGAIN. The server waits again. The tests
  `spurious::SERVER` check this.
";

/// strace cannot inject these, because no system call returns them.
const IN_COMPLETIONS: &str = "
## Errors in completions

With io_uring, an operation does not return its error from a system call. The error is the result in its completion queue
entry, as a negative number. strace cannot inject these errors. The servers treat them like those of the table:

| operation | error | what the server does | because | applies to |
|---|---|---|---|---|
| accept | those of `accept` | as in the table | the operation runs the same code of the kernel | all on io_uring |
| accept | `EINTR` | takes the next connection | SIGSTOP interrupted a kernel thread that waited for the operation | all on io_uring |
| receive or send | `EINTR` | submits it again | the same | all on io_uring |
| receive or send | `ECONNRESET`, `EPIPE`, `ETIMEDOUT`, and others | closes that connection | the connection is lost | all on io_uring |
| receive | `ENOBUFS` | submits it again when a buffer is free | no provided buffer is free; a retry at once would be a busy loop | `uring-echo-buffers` |
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
        let except: Vec<_> = row.except.iter().map(|name| format!("`{name}`")).collect();
        let servers = match (only.is_empty(), except.is_empty()) {
            (false, _) => only.join(", "),
            (true, true) => "all that call it".to_owned(),
            (true, false) => format!("all that call it, except {}", except.join(", ")),
        };
        writeln!(
            page,
            "| `{}` | {} | {} | {} | {servers} |",
            row.name(),
            errors.join(", "),
            row.response.words(),
            row.why
        )?;
    }
    page += IN_COMPLETIONS;
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
