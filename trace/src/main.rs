//! Draws what a server does, thread by thread, from a trace of its system calls.
//!
//! Run: `cargo run -p trace -- epoll-echo`
//!
//! How a figure is made:
//! - [`record`] runs a server of the catalog under strace, while [`clients`] run the [`session`]:
//!   two clients, who do the same to every server.
//! - [`strace`] parses the trace. [`decode`] turns the records into threads with [`call`]s, with
//!   what [`syscalls`] and [`sockets`] know.
//! - [`analyze`] builds the [`timeline`]: which thread waited, which call copied which message,
//!   who woke whom, and which calls are steps of the server's pattern ([`servers`]).
//! - [`figure`] and [`comparison`] draw it, with the widths from [`layout`], the shapes from
//!   [`style`], and repeated calls summarized by [`repeat`]. [`text`] prints it to the terminal.

#![allow(clippy::cast_precision_loss, reason = "coordinates, and times below a minute")]

mod analyze;
mod call;
mod clients;
mod comparison;
mod decode;
mod figure;
mod layout;
mod record;
mod repeat;
mod servers;
mod session;
mod sockets;
mod strace;
mod style;
mod syscalls;
#[cfg(test)]
mod tests;
mod text;
mod timeline;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use servers::Server;
use session::Session;
use strace::Nanos;
use timeline::Timeline;

/// How often `--all` records each server. It keeps the recording with the smallest delay.
const RUNS: usize = 5;

/// Draws what a server does, thread by thread, from a trace of its system calls.
///
/// Needs strace. Two clients connect to the server, send messages, and disconnect. The figure is
/// written to SERVER.svg.
#[derive(Parser)]
struct Arguments {
    /// The server, by the name of its binary, such as `epoll-echo`
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    server: Option<String>,
    /// Draw every server, and one figure that compares the models
    #[arg(long)]
    all: bool,
    /// Write the figures to this folder [default: target/trace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the events to the terminal instead of drawing them
    #[arg(long)]
    text: bool,
    /// Use the recordings of the last run in target/trace instead of running the servers
    #[arg(long)]
    recorded: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let servers = match &arguments.server {
        Some(name) => vec![find(name)?],
        None => servers::all(),
    };
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("trace");
    let out = arguments.out.as_ref().unwrap_or(&recordings);
    for folder in [&recordings, out] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if !arguments.recorded {
        record::check_strace()?;
    }
    let mut timelines = Vec::new();
    for server in servers {
        let path = recordings.join(format!("{}.trace", server.name()));
        let timeline = if arguments.recorded {
            read(server, &path)
        } else {
            record_best(server, &path, arguments)
        };
        let timeline = match timeline {
            Ok(timeline) => timeline,
            // A server that cannot run here must not prevent the others from being drawn. The
            // kernel may refuse io_uring, for example.
            Err(error) if arguments.all => {
                eprintln!("skipped {}: {error:#}", server.name());
                continue;
            }
            Err(error) => return Err(error),
        };
        if arguments.text {
            anstream::print!("{}", text::render(&timeline));
        } else {
            save(&out.join(format!("{}.svg", server.name())), &figure::draw(&timeline))?;
        }
        timelines.push(timeline);
    }
    ensure!(!timelines.is_empty(), "no server could be drawn");
    if arguments.all && !arguments.text {
        save(&out.join("comparison.svg"), &comparison::draw(&timelines))?;
    }
    Ok(())
}

fn find(name: &str) -> Result<Server> {
    servers::find(name).with_context(|| {
        let names: Vec<&str> = servers::all().iter().map(Server::name).collect();
        format!("there is no server {name:?}; the servers are {}", names.join(", "))
    })
}

/// Records the server, and keeps the recording with the smallest delay in the file at `path`.
fn record_best(server: Server, path: &Path, arguments: &Arguments) -> Result<Timeline> {
    let binary = record::build(&server)?;
    let runs = if arguments.all { RUNS } else { 1 };
    let mut best: Option<(Nanos, String, Timeline)> = None;
    for _ in 0..runs {
        let text = record::record(&server, &binary, path)?;
        let timeline = build_timeline(server, &text)?;
        let delay = timeline.delay();
        if best.as_ref().is_none_or(|(smallest, ..)| delay < *smallest) {
            best = Some((delay, text, timeline));
        }
    }
    let (_, text, timeline) = best.context("no recording")?;
    fs::write(path, &text)?;
    Ok(timeline)
}

fn read(server: Server, path: &Path) -> Result<Timeline> {
    let text = fs::read_to_string(path);
    build_timeline(server, &text.with_context(|| format!("no recording in {}", path.display()))?)
}

fn build_timeline(server: Server, recording: &str) -> Result<Timeline> {
    let session = Session::from_text(recording)?;
    Ok(analyze::analyze(server, session, &strace::parse(recording)))
}

fn save(path: &Path, document: &svg::Document) -> Result<()> {
    svg::save(path, document).with_context(|| format!("cannot write {}", path.display()))?;
    anstream::println!("{}", path.display());
    Ok(())
}
