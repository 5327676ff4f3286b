//! The command line, the log, and the exit status.

use std::env;
use std::io::{self, Write};
use std::panic;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use env_logger::Target;

use crate::signals::unblock_stop_signals;
use crate::socket::program_name;
use crate::stderr::NonBlockingStderr;

/// A positional argument of a server.
pub struct Arg {
    /// The name in the usage line.
    pub name: &'static str,
    /// The value if the argument is omitted.
    pub default: &'static str,
    /// The description in the usage text, one line.
    pub meaning: &'static str,
}

/// The address on which an echo server listens.
pub const ECHO_ADDR: Arg = Arg { name: "ADDR", default: "127.0.0.1:7000", meaning: LISTEN_ON };

/// The number of event loops of a server that runs several of them. [`loop_count`] parses it.
pub const LOOPS: Arg = Arg {
    name: "LOOPS",
    default: "0",
    meaning: "number of event loops, each in a thread of its own; 0 starts one per core",
};
/// The most event loops that can be asked for.
const MAX_LOOPS: usize = 1024;

/// Parses the value of [`LOOPS`]. For 0 it returns the number of cores that this process may use.
///
/// # Errors
/// It is not a number, or it is too large.
pub fn loop_count(loops: &str) -> anyhow::Result<usize> {
    let count = loops.parse().with_context(|| format!("LOOPS is a number, not {loops:?}"))?;
    ensure!(count <= MAX_LOOPS, "LOOPS is {count}, not 0 to {MAX_LOOPS}");
    if count > 0 {
        return Ok(count);
    }
    Ok(thread::available_parallelism().context("cannot count the cores")?.get())
}

pub(crate) const LISTEN_ON: &str =
    "HOST:PORT to listen on; [HOST]:PORT for IPv6; port 0 picks a free one";

/// Runs `program` with the values of `args`, taken from the command line or from their defaults.
///
/// `-h` and `--help` print the usage. An unexpected argument ends the process with one line on
/// stderr and status 2. An error of `program` ends it with one line and status 1. A panic in any
/// thread ends the process, too: the other threads could otherwise wait for the dead thread for
/// ever. The log goes to stderr, at level info or at the level that `RUST_LOG` sets.
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

    prepare();
    match program(values) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("{error:#}")), // Pitfall: unwrap-at-start
    }
}

fn usage(args: &[Arg]) -> String {
    let mut text = format!("Usage: {}", program_name());
    text.extend(args.iter().map(|arg| format!(" [{}]", arg.name)));
    text += "\n\n";
    for Arg { name, default, meaning } in args {
        text += &format!("  {name:<8} {meaning} [default: {default}]\n");
    }
    text + "\nRUST_LOG=trace logs every wait and every copy; RUST_LOG=off logs nothing.\n"
}

/// Prints one line on stderr, and returns the status. (`eprintln!` panics if the reader of stderr
/// is gone.)
#[must_use]
pub fn fail(status: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{}: {message}", program_name());
    ExitCode::from(status)
}

/// [`run`] calls this after it has parsed the arguments. It unblocks the stop signals, starts the
/// log, and makes a panic in any thread end the process.
pub fn prepare() {
    unblock_stop_signals();
    start_log();
    // Pitfall: panic-in-worker
    let print_panic = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print_panic(panic);
        process::exit(101); // the status of a Rust program whose main thread panics
    }));
}

fn start_log() {
    let start = Instant::now();
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .parse_default_env()
        .target(Target::Pipe(Box::new(NonBlockingStderr::default())))
        .format(move |line, record| {
            let seconds = start.elapsed().as_secs_f64();
            write!(line, "{seconds:11.6} {:5} ", record.level())?;
            // Only threads with a role of their own have a name.
            if let Some(name) = thread::current().name().filter(|&name| name != "main") {
                write!(line, "{name}: ")?;
            }
            writeln!(line, "{}", record.args())
        })
        .init();
}
