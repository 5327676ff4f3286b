//! The clients that people use, nats-py and async-nats, with our broker and with a real nats-server;
//! and our client with theirs.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::nats::Kind;
use crate::support::{missing, python, run, start, succeeds, text, trial};

/// Built by the command in `tests/async-nats/Cargo.toml`.
const ASYNC_NATS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../target/async-nats/debug/async-nats-client");

pub fn trials() -> Vec<Trial> {
    let nats = missing("nats-server");
    let has_nats_py = python("import nats", &[]).is_ok_and(|output| output.status.success());
    let client = (!has_nats_py).then_some("python3 with nats-py");
    let async_nats = (!Path::new(ASYNC_NATS).is_file()).then_some("target/async-nats");
    let mut trials = vec![
        trial("async_nats::client", async_nats, || run_async_nats(Kind::Ours)),
        trial("async_nats::nats_server::client", async_nats.or(nats), || {
            run_async_nats(Kind::Real)
        }),
    ];
    for (name, script) in [
        ("nats_py", include_str!("nats_client.py")),
        ("nats_py_large_messages", include_str!("nats_large_messages.py")),
    ] {
        let ours = move || nats_py(Kind::Ours, script);
        trials.push(trial(format!("nats_py::{name}"), client, ours));
        let real = move || nats_py(Kind::Real, script);
        trials.push(trial(format!("nats_py::nats_server::{name}"), client.or(nats), real));
    }
    trials.push(trial("nats_py::our_request_to_its_responder", client, our_request));
    trials
}

/// Runs a script with the URL of a broker.
fn nats_py(kind: Kind, script: &str) -> Result<()> {
    let broker = kind.start()?;
    let output = python(script, &[&format!("nats://{}", broker.addr)])?;
    ensure!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    ensure!(!broker.process.has("too slow"), "a client that reads was disconnected");
    Ok(())
}

/// The role `request` with a responder of another library.
fn our_request() -> Result<()> {
    let broker = Kind::Ours.start()?;
    let script = "
import asyncio, sys, nats
async def main():
    client = await nats.connect(sys.argv[1])
    async def double(message):
        await message.respond(message.data * 2)
    await client.subscribe('double', cb=double)
    await client.flush(20)
    print('ready', flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
";
    let args = ["-c", script, &broker.addr];
    let responder = communication_modes::Process::start("", "python3".as_ref(), &args)?;
    responder.expect("ready")?;
    let output = run("publish-subscribe", &["request", &broker.addr, "double", "ab", "30"])?;
    ensure!(succeeds(&output)? == "abab\n", "{output:?}");
    Ok(())
}

/// async-nats subscribes, publishes and sends a request to our client.
fn run_async_nats(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let responder = start("publish-subscribe", &["respond", &broker.addr, "time", "noon"])?;
    responder.expect("subscribed")?;
    let mut client = Command::new("timeout");
    client.args(["--kill-after=1", "100", ASYNC_NATS, &broker.addr]);
    succeeds(&client.output()?).map(drop)
}
