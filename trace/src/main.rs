//! What a server does, drawn from a trace of its system calls.
//!
//! - [`play`]: what the two clients do to each server, the same to all, and when they did it.
//! - [`record`]: runs a server under strace while they play.
//! - [`strace`]: reads what strace wrote.
//! - [`calls`]: makes calls of it, and [`story`] a story: phases, messages, signals, steps.
//! - [`figure`] and [`comparison`] draw it, with [`layout`] for the places and [`style`] for the
//!   looks; [`text`] tells it in the terminal.

// Places in a drawing, and times below a minute: nothing is lost.
#![allow(clippy::cast_precision_loss)]

mod calls;
mod comparison;
mod figure;
mod layout;
mod play;
mod record;
mod repeat;
mod servers;
mod story;
mod strace;
mod style;
#[cfg(test)]
mod tests;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use play::Play;
use servers::{SERVERS, Server};
use story::Story;

/// How often the play is given for a figure that is to be kept; the calmest run is drawn.
const RUNS: usize = 5;

/// Draws what a server does from a trace of its system calls.
#[derive(Parser)]
struct Trace {
    /// The server to trace, by the name of its binary
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    server: Option<String>,
    /// Trace every server, and draw the models under one another too
    #[arg(long)]
    all: bool,
    /// Where the figures go [default: target/trace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Tell it in the terminal instead of drawing it
    #[arg(long)]
    text: bool,
    /// Take what the last run recorded in target/trace, and run nothing
    #[arg(long)]
    recorded: bool,
}

fn main() -> ExitCode {
    match Trace::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Trace {
    /// Draws.
    fn run(self) -> Result<()> {
        let servers = self.servers()?;
        let records = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("trace");
        let out = self.out.as_ref().unwrap_or(&records);
        for directory in [&records, out] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        if let Some(hindrance) = record::hindrance().filter(|_| !self.recorded) {
            bail!(hindrance);
        }
        let mut stories = Vec::new();
        for server in servers {
            let path = records.join(format!("{}.trace", server.name));
            let story =
                if self.recorded { read(server, &path) } else { self.record(server, &path) };
            let story = match story {
                Ok(story) => story,
                // One that cannot run here (io_uring may be refused) is no reason to draw none.
                Err(error) if self.all => {
                    eprintln!("skipped {}: {error:#}", server.name);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.text {
                anstream::print!("{}", text::tell(&story));
            } else {
                save(&out.join(format!("{}.svg", server.name)), &figure::draw(&story))?;
            }
            stories.push(story);
        }
        if self.all && !self.text {
            save(&out.join("comparison.svg"), &comparison::draw(&stories))?;
        }
        Ok(())
    }

    fn servers(&self) -> Result<Vec<&'static Server>> {
        let Some(name) = &self.server else { return Ok(SERVERS.iter().collect()) };
        let known = || SERVERS.iter().map(|server| server.name).collect::<Vec<_>>().join(", ");
        let server = servers::find(name);
        Ok(vec![server.with_context(|| format!("no server {name:?}; there are {}", known()))?])
    }

    /// Plays, and keeps the calmest run in the file at `path`.
    fn record(&self, server: &'static Server, path: &Path) -> Result<Story> {
        let binary = record::build(server)?;
        let runs = if self.all { RUNS } else { 1 };
        let mut best: Option<(strace::Nanos, String, Story)> = None;
        for _ in 0..runs {
            let text = record::record(server, &binary, path)?;
            let story = tell(server, &text)?;
            let unrest = story.unrest();
            if best.as_ref().is_none_or(|(least, ..)| unrest < *least) {
                best = Some((unrest, text, story));
            }
        }
        let (_, text, story) = best.context("no run")?;
        fs::write(path, &text)?;
        Ok(story)
    }
}

fn read(server: &'static Server, path: &Path) -> Result<Story> {
    let text = fs::read_to_string(path);
    tell(server, &text.with_context(|| format!("no record in {}", path.display()))?)
}

fn tell(server: &'static Server, text: &str) -> Result<Story> {
    Ok(Story::new(server, Play::read(text)?, &strace::parse(text)))
}

fn save(path: &Path, document: &svg::Document) -> Result<()> {
    svg::save(path, document).with_context(|| format!("cannot write {}", path.display()))?;
    anstream::println!("{}", path.display());
    Ok(())
}
