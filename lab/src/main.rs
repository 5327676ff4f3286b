//! The lab: what each model costs, and what it does, on the reader's own machine.
//!
//! - `cargo run --release -p lab -- bench` measures the servers side by side.
//! - `cargo run -p lab -- trace epoll-echo` draws a server from a real system-call trace.

mod bench;
mod trace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures the servers side by side, and draws them from real traces")]
struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures what each server costs
    Bench(bench::Bench),
    /// Draws what a server does from a trace of its system calls
    Trace(trace::Trace),
}

fn main() -> anyhow::Result<()> {
    match Lab::parse().command {
        Command::Bench(bench) => bench.run(),
        Command::Trace(trace) => trace.run(),
    }
}
