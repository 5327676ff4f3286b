//! What a server does, drawn from a trace of its system calls.

mod figure;
mod layout;
mod play;
mod record;
mod servers;
mod story;
mod strace;
mod style;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use play::Play;
use servers::{SERVERS, Server};
use story::Story;

/// Arguments of `lab trace`.
#[derive(clap::Args)]
pub struct Trace {
    /// The server to trace, by the name of its binary
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    server: Option<String>,
    /// Trace every server, and draw the models under one another too
    #[arg(long)]
    all: bool,
    /// Where the figures go [default: target/trace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw from what the last run recorded in target/trace, and run nothing
    #[arg(long)]
    recorded: bool,
}

impl Trace {
    /// Draws.
    pub fn run(self) -> Result<()> {
        let records = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/trace"));
        fs::create_dir_all(&records)?;
        let out = self.out.clone().unwrap_or_else(|| records.clone());
        fs::create_dir_all(&out)?;
        if let Some(hindrance) = record::hindrance().filter(|_| !self.recorded) {
            bail!(hindrance);
        }
        let servers: Vec<&'static Server> = match &self.server {
            Some(name) => vec![servers::find(name).with_context(|| format!("no server {name:?}"))?],
            None => SERVERS.iter().collect(),
        };
        for server in servers {
            let path = records.join(format!("{}.trace", server.name));
            let text = if self.recorded {
                match fs::read_to_string(&path) {
                    Ok(text) => text,
                    Err(_) => continue,
                }
            } else {
                let binary = record::build(server)?;
                record::record(server, &binary, &path)?
            };
            let story = Story::new(server, Play::read(&text)?, &strace::parse(&text));
            let figure = out.join(format!("{}.svg", server.name));
            svg::save(&figure, &figure::draw(&story))?;
            println!("{}", figure.display());
        }
        Ok(())
    }
}
