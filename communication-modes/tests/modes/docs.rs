//! The commands in `docs/communication-modes.md`, in both languages: each is run as the page says.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;

use crate::peer::{ClosedPort, Peer};
use crate::support::{missing, run, start, text, trial, trials, until};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials!("docs": both_languages_have_the_same_commands);
    for mode in ["synchronous", "callback", "intermediary", "publish-subscribe", "decentralised"] {
        let needed = if mode == "synchronous" { missing("curl") } else { None };
        trials.push(trial(format!("docs::{mode}"), needed, move || commands_work(mode)));
    }
    trials
}

/// A command, and the lines that it prints according to the page.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    lines: Vec<String>,
}

fn page(language: &str) -> Result<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/");
    let path = format!("{root}communication-modes{language}.md");
    fs::read_to_string(&path).context(path)
}

/// Returns the commands of all blocks, one list per block.
fn blocks(page: &str) -> Vec<Vec<Step>> {
    let mut blocks = Vec::new();
    for block in page.split("```text\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let mut steps: Vec<Step> = Vec::new();
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { command: command.to_owned(), lines: Vec::new() });
                }
                (None, Some(step)) => step.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        blocks.push(steps);
    }
    blocks
}

fn both_languages_have_the_same_commands() -> Result<()> {
    let (english, chinese) = (blocks(&page("")?), blocks(&page(".zh-CN")?));
    ensure!(english.len() >= 5 && english == chinese, "{english:#?}\n{chinese:#?}");
    // No port is used by two modes.
    let mut ports = BTreeMap::new();
    for (index, block) in english.iter().enumerate() {
        for port in block.iter().flat_map(|step| ports_of(&step.command)) {
            let first = *ports.entry(port.clone()).or_insert(index);
            ensure!(first == index, "two modes use port {port}");
        }
    }
    Ok(())
}

fn ports_of(text: &str) -> Vec<String> {
    let parts = text.split("127.0.0.1:").skip(1);
    parts.map(|part| part.chars().take_while(char::is_ascii_digit).collect()).collect()
}

/// Runs the block of a mode with other ports, and expects the lines that it shows.
fn commands_work(mode: &str) -> Result<()> {
    let blocks = blocks(&page("")?);
    let of_mode = format!("--bin {mode} ");
    let uses_mode = |block: &&Vec<Step>| block.iter().any(|step| step.command.contains(&of_mode));
    let block = blocks.iter().find(uses_mode).with_context(|| format!("no block for {mode}"))?;
    // Other ports in the same order, because a node prints the addresses of all nodes in order.
    let mut ports: Vec<String> = Vec::new();
    for Step { command, lines } in block {
        ports.extend(ports_of(&format!("{command} {}", lines.join(" "))));
    }
    ports.sort_unstable();
    ports.dedup();
    let mut free = ports.iter().map(|_| ClosedPort::new()).collect::<Result<Vec<_>>>()?;
    free.sort_by_key(|closed| closed.port().to_owned());

    let mut running = Vec::new();
    for Step { command, lines } in block {
        let mut texts = [command.replace("127.0.0.1 7", "127.0.0.1:7"), lines.join("\n")];
        for (port, closed) in ports.iter().zip(&free) {
            let addr = format!("127.0.0.1:{port}");
            texts = texts.map(|text| text.replace(&addr, &closed.addr));
        }
        let [command, lines] = texts;
        let words: Vec<&str> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
        match &words[..] {
            // The nodes take a moment to find each other.
            ["cargo", "run", "-p", "communication-modes", "--bin", mode, "ask", args @ ..] => {
                let args = [&["ask"], args].concat();
                let shows_lines = || Ok(text(&run(mode, &args)?.stdout) == format!("{lines}\n"));
                until(&format!("{command} shows {lines}"), shows_lines)?;
            }
            ["cargo", "run", "-p", "communication-modes", "--bin", mode, args @ ..] => {
                let process = start(mode, args)?;
                // What runs on must be ready before the next command.
                if ["serve", "backend", "node", "respond", "subscribe"].contains(&args[0])
                    || *mode == "intermediary"
                {
                    let is_ready = || Ok(process.has("listening on") || process.has("subscribed"));
                    until(&format!("{command} is ready"), is_ready)?;
                }
                running.push((process, lines));
            }
            ["curl", args @ ..] => {
                running.push((Process::start("", "curl".as_ref(), args)?, lines));
            }
            ["nc", addr] => {
                let mut peer = Peer::connect(addr)?;
                peer.send("hello\n")?;
                peer.lines(&lines.lines().collect::<Vec<_>>())?;
            }
            _ => bail!("unknown command {command:?}"),
        }
    }
    for (process, lines) in &running {
        for line in lines.lines() {
            process.expect(line)?;
        }
    }
    Ok(())
}
