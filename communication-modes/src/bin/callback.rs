//! Asynchronous point-to-point: the caller passes a callback with each request, and continues. When
//! the answer arrives, another thread calls the callback.
//!
//! ```text
//!      caller             threads               server
//!  (1) 1 → callback A  ┐
//!      2 → callback B  ┘ the table
//!  (2) continues          "1 300 slow" ──────▶  ┐
//!                         "2 100 quick" ─────▶  │ works on both
//!                         "2 kciuq" ◀────────   │
//!                     (3) removes B, calls it   │
//!                         "1 wols" ◀─────────   ┘
//!                     (3) removes A, calls it
//! ```
//!
//! How a call travels: (1) The caller enters the callback into a table, under the ID of the
//! request. It does so before the request is sent, because the answer can arrive at once. (2) A
//! writer thread sends the request, and the caller continues. (3) A reader thread waits for
//! answers. For each, it removes the callback with the same ID from the table, and calls it. (4) A
//! timer thread removes each callback that has waited for too long, and calls it with an error. (5)
//! If the connection is lost or closed, the reader thread removes all callbacks that are left, and
//! calls each with an error. A thread calls a callback only after it has removed it from the table.
//! Therefore each callback is called exactly once. (6) An answer whose ID is not in the table is
//! too late, a duplicate, or invalid. It is reported separately.
//!
//! The catch: a callback runs on another thread, at any time, and may need a lock that the caller
//! holds. If `call` ran a callback itself, for example to report an error, the callback
//! would wait for a lock that its own thread holds: a deadlock. Therefore `call` returns its errors, and only the reader thread and the timer thread
//! run callbacks.
//!
//! Run: `cargo run -p communication-modes --bin callback`, or as separate processes:
//!
//! ```text
//! $ cargo run -p communication-modes --bin callback serve 127.0.0.1:7200
//! $ cargo run -p communication-modes --bin callback call 127.0.0.1:7200 300:slow 100:quick
//! sent 1: 300 ms for "slow"
//! sent 2: 100 ms for "quick"
//! answer to 2: kciuq
//! answer to 1: wols
//! ```
//!
//! Use it when: the caller has other work to do, or many requests share one connection.
//! Limits: a callback that blocks delays the callbacks of its thread. The steps of one task are
//! spread over several callbacks. `async` and `await` bring them into order again. Next: hyper
//! (HTTP/2), tonic (gRPC).
//! Compare with: `communication-modes/src/bin/synchronous.rs` (the caller waits).

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use communication_modes::worker::{self, MAX_WORK};
use communication_modes::{
    Caller, MAX_CONNECTIONS, Misuse, Process, one_line, printable, run_roles, run_server,
};

const USAGE: &str = "\
Usage: callback                          run a demonstration
       callback serve ADDR               run the server
       callback call ADDR MS:TEXT...     ask it to work on each TEXT for MS ms
";
/// How long a call waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_roles(USAGE, |args| match args {
        [] => demonstrate(),
        ["serve", addr] => run_server(addr, MAX_CONNECTIONS, |stream| worker::converse(stream)),
        ["call", addr, requests @ ..] if !requests.is_empty() => call_all(addr, requests),
        _ => bail!(Misuse),
    })
}

fn demonstrate() -> anyhow::Result<()> {
    let mut server = Process::server("server", &["serve", "127.0.0.1:0"])?;
    println!("--- answers arrive in the order in which they are ready; each call waits for 1 s");
    let requests = ["300:slow", "1500:too slow", "100:quick", "1700:even slower"];
    Process::client("caller", &[&["call", &server.addr], &requests[..]].concat())?.wait()?;
    println!("--- the server is killed while two calls wait");
    let mut caller = Process::client("caller", &["call", &server.addr, "900:one", "901:two"])?;
    caller.expect("sent 2")?;
    server.kill()?;
    caller.wait().map(drop)
}

/// Sends all requests at once, and prints the outcome of each.
fn call_all(addr: &str, requests: &[&str]) -> anyhow::Result<()> {
    let requests: Vec<_> = requests.iter().map(|it| parse(it)).collect::<anyhow::Result<_>>()?;
    let (done, outcomes) = mpsc::channel();
    let (late, late_answers) = mpsc::channel();
    let caller = Caller::connect(addr, TIMEOUT, move |answer| {
        show(&format!("too late: {}", printable(answer)));
        let _ = late.send(());
    });
    let caller = caller.with_context(|| format!("cannot connect to {addr}"))?;

    for (id, (ms, text)) in (1..).zip(&requests) {
        show(&format!("sent {id}: {ms} ms for {text:?}"));
        let callback_done = done.clone();
        let report = move |outcome: io::Result<String>| {
            match &outcome {
                Ok(answer) => show(&format!("answer to {id}: {}", printable(answer))),
                Err(error) => show(&format!("no answer to {id}: {error}")),
            }
            let _ = callback_done.send(outcome.err().map(|error| error.kind()));
        };
        if let Err(error) = caller.call(&format!("{ms} {text}"), Box::new(report)) {
            show(&format!("no answer to {id}: {error}"));
            let _ = done.send(Some(error.kind()));
        }
    }

    let failures: Vec<_> = outcomes.iter().take(requests.len()).flatten().collect();
    let timeouts = failures.iter().filter(|kind| **kind == ErrorKind::TimedOut).count();
    for _ in 0..timeouts {
        // The answer can still arrive, unless the connection is lost.
        if late_answers.recv_timeout(MAX_WORK).is_err() {
            break;
        }
    }
    ensure!(failures.is_empty(), "{} of {} calls failed", failures.len(), requests.len());
    Ok(())
}

/// Parses `MS:TEXT`.
fn parse(request: &str) -> anyhow::Result<(u64, &str)> {
    let parts = one_line("the request", request)?.split_once(':');
    let valid = parts.and_then(|(ms, text)| Some((ms.parse().ok()?, text)));
    valid.with_context(|| format!("the request {request:?} is not MS:TEXT"))
}

/// Prints a line. `println!` would panic if stdout is closed.
fn show(line: &str) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}
