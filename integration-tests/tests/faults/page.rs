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
all servers of this workspace. In each table, the last column names the servers to which the row applies. \"Not tested\"
means that a row applies to a server, but strace cannot tell this use of the call from others.

Tests check this page. `cargo test --test faults` runs each server under strace while clients use it. In some tests strace
makes a single call of each thread fail, in others every call for some time. The tests check the [contract](contract.md)
while the calls fail: the other clients receive all bytes in order, and nothing hangs or spins. When the calls succeed again,
no file descriptor has leaked, a new client is served, and SIGTERM ends the server with status 0. (SIGTERM also ends it while
the calls still fail.) Each run injects a sample of the faults, which changes from day to day.
`FAULTS=all cargo test --release --test faults` injects all of them.

At start, before a server prints that it listens, one rule holds for all calls. If a call fails that the server needs, the
server ends with status 1 and one line on stderr that names the call. The table is about the time after the start.

The table does not contain three results that are not errors:

- EAGAIN from a non-blocking socket: no connection is waiting, no data has arrived, or the send buffer is full. The server
  waits until the socket is ready. (`nonblocking-echo` does not wait. It tries the other sockets, and then this one again. In
  the servers on io_uring and POSIX AIO the sockets are blocking: the operation waits in the kernel or in a helper thread.)
- A short count: `read` or `write` transfers fewer bytes than the server asked for. The server continues with the rest. The
  tests `short_counts::SERVER` check this. (SERVER stands for the name of a server.)
- Spurious readiness: the wait reports a socket, but the call on it returns EAGAIN. The server waits again. The tests
  `spurious::SERVER` check this.

Many servers have a *self-pipe*: a socket pair into which a signal handler writes, so that a loop that waits for file
descriptors notices SIGTERM. A server pauses accepting in its functions `accept_some` and `set_accept_paused`, for example in
[epoll-echo](../epoll-echo/src/main.rs). ADD and MOD are the operations `EPOLL_CTL_ADD` and `EPOLL_CTL_MOD`. A helper thread
is a thread in which glibc runs an operation of POSIX AIO.
";

/// strace cannot inject these, because no system call returns them.
const IN_COMPLETIONS: &str = "
## Errors in completions

io_uring does not return the error of an operation from a system call. It returns the error as a negative result in the
completion queue entry of the operation. strace cannot inject such errors. The servers treat them as follows:

| operation | error | what the server does | because | applies to |
|---|---|---|---|---|
| accept | all except `EINTR` | what the table says for `accept` | the kernel runs the same code as for the system call | all on io_uring |
| accept | `EINTR` | submits the accept again; no client notices | SIGSTOP interrupted the accept, and no connection was removed from the queue | all on io_uring |
| receive or send | `EINTR` | submits the operation again; no client notices | SIGSTOP interrupted the operation | all on io_uring |
| receive or send | `ECONNRESET`, `EPIPE`, `ETIMEDOUT`, and others | closes that connection | the connection has failed | all on io_uring |
| receive | `ENOBUFS` | submits the receive again when a buffer is free | no provided buffer was free, because the server keeps each buffer until its data has been sent; an immediate retry would be a busy loop | `uring-echo-buffers` |
| receive | `ENOBUFS` | submits the receive again at once | the server copies the data out of each buffer and returns the buffer before it looks at the next completion; when it sees the error, buffers are free again, so the retry is no busy loop | `proactor-chat-uring` |
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
        let untested: Vec<_> = row.untested.iter().map(|name| format!("`{name}`")).collect();
        let mut servers = match (only.is_empty(), except.is_empty()) {
            (false, _) => only.join(", "),
            (true, true) => "all that call it".to_owned(),
            (true, false) => format!("all that call it, except {}", except.join(", ")),
        };
        if !untested.is_empty() {
            servers += &format!("; not tested: {}", untested.join(", "));
        }
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
    page += "\n## Calls that the tests do not make fail\n\n\
        The tests cannot make these calls fail in a way that the kernel could, or cannot tell different uses of a call apart.\n\n\
        | calls | reason |\n|---|---|\n";
    for (calls, reason) in NOT_INJECTED {
        let calls: Vec<_> = calls.split(' ').map(|call| format!("`{call}`")).collect();
        writeln!(page, "| {} | {reason} |", calls.join(", "))?;
    }
    page += "\n## Faults that the kernel cannot produce here\n\n| fault | reason |\n|---|---|\n";
    for (fault, reason) in CANNOT_HAPPEN {
        writeln!(page, "| {fault} | {reason} |")?;
    }
    Ok(page)
}
