//! The command line, and the target that it describes.

// The doc comments of the options are the text of --help, which shows backticks as they are.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use contract::Target;
use contract::command::Command;
use contract::probe::{Probe, Protocol, unescape};
use contract::target::{AtRest, Origin, Properties, Spread};
use regex::bytes::Regex;

/// Checks whether a TCP server survives what every TCP server must survive: clients that reset,
/// stall, flood or vanish, half-closes, running out of file descriptors, signals, a thousand idle
/// connections.
///
/// It starts the command itself, many times, and ends it. {addr}, {host} and {port} in the command
/// are replaced by an address on which the server has to listen.
#[derive(Clone, Debug, Parser)]
#[allow(clippy::struct_excessive_bools)] // they are switches, independent of each other
#[command(
    name = "contract",
    version,
    after_help = "Examples:\n  \
        contract -- ./my-echo {addr}\n  \
        contract --probe http -- python3 -m http.server {port}\n  \
        contract --probe redis -- redis-server --port {port} --save ''\n  \
        contract --send 'ping\\n' --expect '^pong\\n' -- ./my-server {port}\n  \
        contract --connect 127.0.0.1:7000\n\n\
        Exit status: 0 if the server keeps everything, 1 if not, 2 if the cases could not run."
)]
pub struct Options {
    /// The command that starts the server in the foreground
    #[arg(required_unless_present_any = ["connect", "list"], trailing_var_arg = true)]
    pub command: Vec<OsString>,

    /// Talk to a server that runs already; leaves out what needs control over its process
    #[arg(long, value_name = "ADDR", conflicts_with = "command")]
    pub connect: Option<String>,

    /// The address on which the command listens, if it has no placeholder
    #[arg(long, value_name = "ADDR", conflicts_with = "connect")]
    pub addr: Option<String>,

    /// The IP address for the placeholders
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// The protocol of the server
    #[arg(long, value_enum, default_value_t = ProbeName::Echo, help_heading = "Protocol")]
    pub probe: ProbeName,

    /// The path to GET, with --probe http
    #[arg(long, default_value = "/", help_heading = "Protocol")]
    pub path: String,

    /// A request of your own protocol; \r \n \t \0 \\ and \xHH are replaced
    #[arg(long, value_name = "BYTES", requires = "expect", help_heading = "Protocol")]
    pub send: Option<String>,

    /// The response to it: a regular expression; the response ends where the match ends
    #[arg(long, value_name = "REGEX", requires = "send", help_heading = "Protocol")]
    pub expect: Option<Regex>,

    /// What the server sends when a client connects: a regular expression
    #[arg(long, value_name = "REGEX", help_heading = "Protocol")]
    pub greeting: Option<Regex>,

    /// How many clients it serves at the same time; others wait [default: no limit]
    #[arg(long, value_name = "N", alias = "at-once", help_heading = "Documented limits")]
    pub max_concurrent: Option<usize>,

    /// How many clients it accepts before it refuses others [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Documented limits")]
    pub max_clients: Option<usize>,

    /// The first file descriptor that it refuses (FD_SETSIZE with select) [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Documented limits")]
    pub fd_setsize: Option<u64>,

    /// How many idle clients it has to hold [default: 1000, fewer if it accepts slowly]
    #[arg(long, value_name = "N", help_heading = "Documented limits")]
    pub idle_clients: Option<usize>,

    /// Bytes of memory that an idle client may cost [default: any number]
    #[arg(long, value_name = "BYTES", help_heading = "Documented limits")]
    pub idle_memory: Option<u64>,

    /// MiB by which its memory may vary
    #[arg(long, value_name = "MIB", default_value_t = 16, help_heading = "Documented limits")]
    pub memory: u64,

    /// The limit of file descriptors under which it runs out of them [default: what it has open,
    /// and some]
    #[arg(long, value_name = "N", help_heading = "Documented limits")]
    pub fd_limit: Option<u64>,

    /// Seconds after which it closes idle connections [default: never]
    #[arg(long, value_name = "SECONDS", help_heading = "Documented limits")]
    pub idle_timeout: Option<f64>,

    /// Seconds that it may take to end after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, help_heading = "Documented limits")]
    pub stop: f64,

    /// It has to end with status 0 after SIGTERM; otherwise the signal may end it
    #[arg(long, help_heading = "Documented limits")]
    pub strict_stop: bool,

    /// What it does while its clients do nothing
    #[arg(
        long,
        value_enum,
        default_value_t = AtRestName::WakesUp,
        help_heading = "Documented limits"
    )]
    pub at_rest: AtRestName,

    /// It uses signals for its sockets (SIGIO)
    #[arg(long, help_heading = "Documented limits")]
    pub uses_signals: bool,

    /// How it distributes connections over its workers (event loops or processes), if it has several
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Documented limits")]
    pub spread: Option<SpreadName>,

    /// Its workers are child processes, which it replaces when they end
    #[arg(long, help_heading = "Documented limits")]
    pub worker_processes: bool,

    /// Only the most telling cases, in at most twenty seconds
    #[arg(long)]
    pub quick: bool,

    /// Only this line (half_close) or this case (half_close::small); may be repeated
    #[arg(long, value_name = "CASE")]
    pub only: Vec<String>,

    /// Print the conversation of the clients with the server
    #[arg(long)]
    pub trace: bool,

    /// Seconds to wait for what a correct server does at once
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub timeout: f64,

    /// Seconds for the whole run; no case starts or goes on after it [default: 120, with --quick 20]
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,

    /// Cases that run at the same time [default: 4, with --trace or a fixed address 1]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,

    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// List the cases and end
    #[arg(long)]
    pub list: bool,
}

const IDLE_CLIENTS: usize = 1000;

/// A protocol that needs no further description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeName {
    /// All bytes come back
    Echo,
    /// Each line is answered with one line
    Line,
    /// GET; the response must be complete
    Http,
    /// PING is answered with +PONG
    Redis,
    /// version is answered with VERSION
    Memcached,
    /// PING is answered with PONG, after an INFO line
    Nats,
    /// A line goes to all other clients, after a greeting "* you are NAME"
    Chat,
}

/// What a server does while its clients do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AtRestName {
    /// It never wakes up
    Sleeps,
    /// It uses under 5 % of a core
    WakesUp,
    /// It polls, and may use a core
    Polls,
}

/// Which worker gets a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpreadName {
    /// They take turns
    InTurn,
    /// A hash of the addresses decides
    ByHash,
    /// The first of a fixed order that is idle
    FirstIdle,
    /// The one with the fewest connections
    Fewest,
}

impl Options {
    /// The target that the options describe.
    pub fn target(&self) -> Result<Target> {
        let origin = match (&self.connect, &self.addr) {
            (Some(address), _) => Origin::Running(resolve(address)?),
            (None, Some(address)) => {
                Origin::Command(Command::fixed(self.command.clone(), resolve(address)?)?)
            }
            (None, None) => Origin::Command(Command::new(self.command.clone(), self.host)?),
        };
        let name = self.command.first().map_or("the server".into(), |it| it.to_string_lossy());
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Target { name, origin, probe: self.probe()?, properties: self.properties()? })
    }

    fn probe(&self) -> Result<Probe> {
        let protocol = match (&self.send, &self.expect) {
            (Some(request), Some(response)) => {
                ensure!(self.probe == ProbeName::Echo, "--probe and --send exclude each other");
                let request = unescape(request).context("--send")?;
                ensure!(!request.is_empty(), "--send needs at least one byte");
                Protocol::Custom(request, response.clone())
            }
            _ => match self.probe {
                ProbeName::Echo => Protocol::Echo,
                ProbeName::Line => Protocol::Line,
                ProbeName::Http => Protocol::Http(self.path.clone()),
                ProbeName::Redis => Protocol::Redis,
                ProbeName::Memcached => Protocol::Memcached,
                ProbeName::Nats => Protocol::Nats,
                ProbeName::Chat => Protocol::Chat,
            },
        };
        let mut probe = Probe::new(protocol);
        if let Some(greeting) = &self.greeting {
            ensure!(!probe.is_echo(), "an echo server has no --greeting");
            probe.greeting = Some(greeting.clone());
        }
        Ok(probe)
    }

    fn properties(&self) -> Result<Properties> {
        let seconds = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).with_context(|| format!("--{name} {seconds}"))
        };
        ensure!(self.max_concurrent != Some(0), "--max-concurrent must not be 0");
        ensure!(self.max_clients != Some(0), "--max-clients must not be 0");
        let max_concurrent = self.max_concurrent.unwrap_or(usize::MAX);
        let most = max_concurrent.min(self.max_clients.unwrap_or(usize::MAX));
        Ok(Properties {
            max_concurrent,
            max_clients: self.max_clients,
            max_threads: None,
            fd_setsize: self.fd_setsize,
            descriptors_per_client: None,
            spread: self.spread.map(|spread| match spread {
                SpreadName::InTurn => Spread::InTurn,
                SpreadName::ByHash => Spread::ByHash,
                SpreadName::FirstIdle => Spread::FirstIdle,
                SpreadName::Fewest => Spread::Fewest,
            }),
            worker_processes: self.worker_processes,
            backlog: Properties::DEFAULT.backlog,
            fd_limit: self.fd_limit.unwrap_or(Properties::DEFAULT.fd_limit),
            at_rest: match self.at_rest {
                AtRestName::Sleeps => AtRest::Sleeps,
                AtRestName::WakesUp => AtRest::WakesUp,
                AtRestName::Polls => AtRest::Polls,
            },
            keeps_fd_limit: false,
            computes_in_loop: false,
            uses_signals: self.uses_signals,
            idle_memory: self.idle_memory,
            // One client less than the limit, which is active among the idle ones.
            idle_clients: self
                .idle_clients
                .unwrap_or(IDLE_CLIENTS)
                .min(most.saturating_sub(1))
                .max(1),
            memory: self.memory << 20,
            stop: seconds("stop", self.stop)?,
            stops_with_zero: self.strict_stop,
            idle_timeout: self.idle_timeout.map(|it| seconds("idle-timeout", it)).transpose()?,
        })
    }

    /// How long a case waits for what a correct server does at once.
    pub fn timeout(&self) -> Duration {
        let timeout = Duration::try_from_secs_f64(self.timeout).unwrap_or(Duration::from_secs(5));
        timeout.max(Duration::from_millis(100))
    }

    /// How long a case may take. A correct server needs a few seconds.
    pub fn case_limit(&self) -> Duration {
        12 * self.timeout()
    }

    /// How long the whole run may take.
    pub fn time_limit(&self) -> Duration {
        let usual = if self.quick { 20.0 } else { 120.0 };
        Duration::try_from_secs_f64(self.time_limit.unwrap_or(usual)).unwrap_or(Duration::MAX / 2)
    }

    /// How many cases run at the same time.
    pub fn jobs(&self, target: &Target) -> usize {
        let has_own_address = match &target.origin {
            Origin::Command(command) => command.has_free_port(),
            _ => false,
        };
        if self.trace || !has_own_address { 1 } else { self.jobs.unwrap_or(4).max(1) }
    }
}

fn resolve(address: &str) -> Result<SocketAddr> {
    let mut addresses =
        address.to_socket_addrs().with_context(|| format!("cannot resolve {address:?}"))?;
    match addresses.next() {
        Some(address) => Ok(address),
        None => bail!("{address:?} has no address"),
    }
}
