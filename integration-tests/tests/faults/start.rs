//! A call that fails before the server has announced itself: one line on stderr that says which, and
//! status 1; or the server does without the call, and serves.

use anyhow::{Context, Result, bail, ensure};
use contract::catalog::{Entry, Kind};
use contract::{Launch, Target, binaries, wait_until};

use crate::injection::LIMIT;
use crate::load::{Outcome, Peer};
use crate::table::START;

/// How often a call is made to fail at start: at the first, the second … call of a thread.
const OCCURRENCES: u32 = 3;

pub fn check(entry: &'static Entry) -> Result<()> {
    for (call, errors) in START {
        for error in *errors {
            for occurrence in 1..=OCCURRENCES {
                inject(entry, call, error, occurrence)
                    .with_context(|| format!("{error} at call {occurrence} of {call} at start"))?;
            }
        }
    }
    Ok(())
}

fn inject(entry: &'static Entry, call: &str, error: &str, occurrence: u32) -> Result<()> {
    let target = Target::from(entry).quiet();
    let mut arguments = vec![
        // -D: the server is the child of the test, and strace its grandchild.
        "-D".to_owned(),
        "-f".to_owned(),
        "-qq".to_owned(),
        "--output=/dev/null".to_owned(),
        format!("--trace={call}"),
        format!("--inject={call}:error={error}:when={occurrence}"),
        binaries::path(entry.name)?.display().to_string(),
        "127.0.0.1:0".to_owned(),
    ];
    arguments.extend(target.argument().map(str::to_owned));
    let launch = Launch::new(entry.name, arguments).program("strace").log_level("error");
    let mut server = launch.spawn()?;
    // What it prints on stdout and stderr is in its log.
    wait_until("the server starting or ending", LIMIT, || {
        let output = server.log()?;
        Ok((output.ends_with('\n') || server.has_ended()?).then_some(()))
    })?;
    let output = server.log()?;
    if let Some(line) = output.lines().find(|line| line.contains(" listening on ")) {
        let address = line.rsplit(' ').next().unwrap_or_default().parse()?;
        // The fault may hit the first client.
        for _ in 0..=OCCURRENCES {
            let mut peer = Peer::connect(address, entry.kind == Kind::Chat)?;
            if peer.exchange("hello")? == Outcome::Complete {
                return Ok(());
            }
        }
        bail!("it listens, and does not serve:\n{output}");
    }
    let (status, _) = server.wait(LIMIT)?;
    let output = server.log()?;
    ensure!(status.code() == Some(1), "it ended with {status}:\n{output}");
    ensure!(output.lines().count() == 1, "it printed more or less than one line:\n{output}");
    Ok(())
}
