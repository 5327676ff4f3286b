//! The command line, the log, and how a program ends that cannot start.

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use crate::socket::program_name;

/// A positional argument.
pub struct Arg {
    /// As the usage line shows it.
    pub name: &'static str,
    /// What stands in for it where it is left out.
    pub default: &'static str,
    /// What it is for, in one line.
    pub meaning: &'static str,
}

/// The address an echo server listens on.
pub const ECHO_ADDR: Arg = Arg { name: "ADDR", default: "127.0.0.1:7000", meaning: LISTEN_ON };

/// The address a chat server listens on.
pub const CHAT_ADDR: Arg = Arg { name: "ADDR", default: "127.0.0.1:7001", meaning: LISTEN_ON };

/// How long a client of a chat server may be idle.
pub const IDLE: Arg = Arg {
    name: "IDLE",
    default: "300",
    meaning: "seconds until a client that says nothing is sent away; 0 for never",
};

const LISTEN_ON: &str = "HOST:PORT to listen on; [HOST]:PORT for IPv6; port 0 picks a free one";

/// Runs `program` with the values of its `args`, from the command line or their defaults.
///
/// Sets up the log first: on stderr, from level info on, or as `RUST_LOG` says. An error of
/// the program's is printed in one line, and the exit status is 1; a command line with
/// something more than `args` gets a line too, and 2 (1 and 2 as `ls(1)`, `grep(1)` and most
/// others have it). `-h` and `--help` print the usage.
pub fn run<const N: usize>(
    args: [Arg; N],
    program: impl FnOnce([String; N]) -> anyhow::Result<()>,
) -> ExitCode {
    let mut given = Vec::new();
    for arg in env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()) {
        if arg == "-h" || arg == "--help" {
            let _ = io::stdout().write_all(usage(&args).as_bytes());
            return ExitCode::SUCCESS;
        }
        if arg.starts_with('-') || given.len() == N {
            return fail(2, &format!("unexpected argument {arg:?}; try --help"));
        }
        given.push(arg);
    }
    let mut given = given.into_iter();
    let values = args.map(|arg| given.next().unwrap_or_else(|| arg.default.to_owned()));

    start_log();
    match program(values) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("{error:#}")), // Pitfall: unwrap-at-start
    }
}

/// A command line that is none of a program's own: what [`run_roles`] expects for it.
#[derive(Debug)]
pub struct Misuse;

impl std::error::Error for Misuse {}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such command line; try --help")
    }
}

/// Like [`run`], for a program of several roles: it is given all of its arguments, and answers
/// [`Misuse`] where they are none of its `usage`.
pub fn run_roles(usage: &str, program: impl FnOnce(&[&str]) -> anyhow::Result<()>) -> ExitCode {
    let given: Vec<_> = env::args_os().skip(1).collect();
    let given: Vec<_> = given.iter().map(|arg| arg.to_string_lossy()).collect();
    let given: Vec<&str> = given.iter().map(AsRef::as_ref).collect();
    if given.contains(&"-h") || given.contains(&"--help") {
        let _ = io::stdout().write_all(usage.as_bytes());
        return ExitCode::SUCCESS;
    }

    start_log();
    match program(&given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(if error.is::<Misuse>() { 2 } else { 1 }, &format!("{error:#}")),
    }
}

fn usage(args: &[Arg]) -> String {
    let mut text = format!("Usage: {}", program_name());
    for Arg { name, .. } in args {
        text += &format!(" [{name}]");
    }
    text += "\n\n";
    for Arg { name, default, meaning } in args {
        text += &format!("  {name:<8} {meaning} [default: {default}]\n");
    }
    text + "\nRUST_LOG=trace shows every wait and every copy; RUST_LOG=off shows nothing.\n"
}

// `writeln!` and not `eprintln!`, which panics where nobody reads stderr any more.
fn fail(status: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{}: {message}", program_name());
    ExitCode::from(status)
}

fn start_log() {
    let start = Instant::now();
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .parse_default_env()
        .format(move |line, record| {
            let seconds = start.elapsed().as_secs_f64();
            write!(line, "{seconds:11.6} {:5} ", record.level())?;
            // Where threads have parts to play they have names.
            if let Some(name) = thread::current().name().filter(|&name| name != "main") {
                write!(line, "{name}: ")?;
            }
            writeln!(line, "{}", record.args())
        })
        .init();
}
