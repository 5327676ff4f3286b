//! Runs commands one after the other, as a reader types them in several terminals, and checks what
//! they print.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use contract::{Client, Launch, Server, TIMEOUT, wait_until};
use integration_tests::{Binary, Workspace, workspace};
use regex::Regex;
use rustix::process::Signal;

use crate::{Unavailable, conversation};

/// A program that is asleep in all checks of this time waits for input. A program that ends by itself
/// does not sleep for so long.
const ASLEEP: Duration = Duration::from_secs(2);
/// At least so many checks, if the machine is so busy that they are few.
const CHECKS: usize = 20;

/// Held while Cargo builds something, because a build slows down everything else. Also held by each
/// session, because many of them use the same ports.
static ALONE: Mutex<()> = Mutex::new(());

/// See [`ALONE`].
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command, and the lines below it on the screen.
#[derive(Clone, Debug)]
pub struct Step {
    pub command: String,
    pub lines: Vec<String>,
}

impl Step {
    pub fn new(command: impl Into<String>) -> Self {
        Self { command: command.into(), lines: Vec::new() }
    }

    /// The steps of a block in which commands begin with `$`.
    pub fn of_block(block: &str) -> Vec<Self> {
        let mut steps: Vec<Self> = Vec::new();
        for line in block.replace("\\\n", "").lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Self::new(command)),
                (None, Some(step)) => step.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        steps
    }
}

/// `[VARIABLE=…] cargo run -p PACKAGE [--bin NAME] [--] [ARGUMENTS]`
#[derive(Clone)]
pub struct Run {
    pub binary: Binary,
    pub arguments: Vec<String>,
    pub is_traced: bool,
}

impl Run {
    /// Returns `None` if the command is not `cargo run`.
    pub fn parse(command: &str, workspace: &Workspace) -> Result<Option<Self>> {
        let shape = "^(RUST_LOG=trace )?cargo run (?:--release )?\
                     -p ([^ ]+)(?: --bin ([^ ]+))?(?: --)?(?: (.*))?$";
        let Some(parts) = Regex::new(shape)?.captures(command) else { return Ok(None) };
        let arguments = parts.get(4).map_or("", |arguments| arguments.as_str());
        Ok(Some(Self {
            binary: workspace.run(&parts[2], parts.get(3).map(|name| name.as_str()))?.clone(),
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
            is_traced: parts.get(1).is_some(),
        }))
    }

    /// Whether it is a demonstration, which ends by itself.
    fn is_demonstration(&self) -> bool {
        self.binary.is_mode() && self.arguments.is_empty()
    }

    /// The port on which it listens, if it is a server.
    fn port(&self) -> Result<u16> {
        let port = self.arguments.iter().find_map(|it| it.strip_prefix("127.0.0.1:"));
        Ok(port.map_or(Ok(if self.binary.is_chat() { 7001 } else { 7000 }), str::parse)?)
    }

    /// Builds the program.
    pub fn build(&self) -> Result<()> {
        let Binary { package, name, .. } = &self.binary;
        let mut cargo = Command::new(workspace::cargo());
        let output = cargo.args(["build", "-p", package, "--bin", name]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Prepares to start the program with a shell command.
    pub fn launch(&self, line: &str) -> Launch {
        // The leak is small: one name per command.
        Launch::shell(self.binary.name.clone().leak(), line)
    }
}

/// Runs the steps, checks what they print, stops what still runs, and checks its exit status.
pub fn run(steps: &[Step], workspace: &Workspace) -> Result<()> {
    let _alone = alone();
    let result = Session::new(workspace, Vec::new()).play(steps);
    let in_use = |error: &anyhow::Error| format!("{error:#}").contains("(os error 98)");
    if !result.as_ref().is_err_and(in_use) {
        return result;
    }
    // Another program on this machine uses one of the ports. Try again with other ports.
    Session::new(workspace, substitutes(steps)?).play(steps)
}

/// A free port for each port that the steps name, in the same order.
fn substitutes(steps: &[Step]) -> Result<Vec<(u16, u16)>> {
    let port = Regex::new(r"127\.0\.0\.1[: ]([0-9]+)")?;
    let mut named = vec![7000, 7001];
    for step in steps {
        let ports = port.captures_iter(&step.command).map(|port| port[1].parse::<u16>());
        named.extend(ports.collect::<Result<Vec<_>, _>>()?);
    }
    named.sort_unstable();
    named.dedup();
    let free = named.iter().map(|_| TcpListener::bind("127.0.0.1:0"));
    let free = free.collect::<Result<Vec<_>, _>>()?;
    let mut free = free.iter().map(|it| Ok(it.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
    free.sort_unstable();
    Ok(named.into_iter().zip(free).collect())
}

struct Session<'a> {
    workspace: &'a Workspace,
    /// Pairs of a port and the one to use instead.
    substitutes: Vec<(u16, u16)>,
    running: Vec<Process>,
}

/// A program that still runs.
struct Process {
    run: Run,
    running: Server,
    /// The lines that it has to print before the session ends.
    lines: Vec<String>,
    /// The address on which it listens.
    address: Option<SocketAddr>,
    /// Whether a client has talked to it.
    is_tried: bool,
}

/// The state of a program that has just started.
enum Start {
    Listens(SocketAddr),
    Sleeps,
    Ended(ExitStatus),
}

impl<'a> Session<'a> {
    fn new(workspace: &'a Workspace, substitutes: Vec<(u16, u16)>) -> Self {
        Self { workspace, substitutes, running: Vec::new() }
    }

    fn play(mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            self.step(step).with_context(|| format!("$ {}", step.command))?;
        }
        for process in &mut self.running {
            let result = process.greet().and_then(|()| process.stop());
            result.with_context(|| process.run.binary.name.clone())?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let command = self.translate(&step.command);
        let lines: Vec<_> = step.lines.iter().map(|line| self.translate(line)).collect();
        if let Some(run) = Run::parse(&step.command, self.workspace)? {
            if let Some(missing) = run.binary.unavailable() {
                bail!(Unavailable(missing));
            }
            run.build()?;
            return if run.is_demonstration() {
                let output = run.launch(&command).output_within(3 * TIMEOUT)?;
                ensure!(output.status.success(), "{}: {}", output.status, output.stderr);
                Ok(())
            } else if run.is_traced && !lines.is_empty() {
                self.start(&run, &command, &[])?;
                self.running.last_mut().context("the program has ended")?.expect_log(&lines)
            } else {
                self.start(&run, &command, &lines)
            };
        }
        match step.command.split(' ').collect::<Vec<_>>().as_slice() {
            ["nc", options @ .., "127.0.0.1", port] => {
                self.converse(options, port.parse()?, &lines)
            }
            // curl may not be installed.
            ["curl", _] if Command::new("curl").arg("--version").output().is_err() => Ok(()),
            ["curl", _] => {
                let shown = Launch::shell("curl", &command).output()?.stdout;
                ensure!(shown.lines().eq(&lines), "it prints {shown:?}");
                Ok(())
            }
            _ => bail!("how does this run? Add it to tests/readme/session.rs"),
        }
    }

    /// The text with the substitutes in place of the ports.
    fn translate(&self, text: &str) -> String {
        self.substitutes.iter().fold(text.to_owned(), |text, (port, other)| {
            text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{other}"))
        })
    }

    /// Starts a program that has to print `lines`: before it ends, or before the session ends.
    ///
    /// A program that ends without having printed them starts again for a while, because a reader
    /// takes longer from one command to the next than the parts of a program to find each other.
    fn start(&mut self, run: &Run, command: &str, lines: &[String]) -> Result<()> {
        let mut shown = String::new();
        let result = wait_until("the program printing what it should", TIMEOUT, || {
            let (mut process, start) = self.begin(run, command)?;
            let Start::Ended(status) = start else {
                lines.clone_into(&mut process.lines);
                self.running.push(process);
                return Ok(Some(()));
            };
            shown = process.running.log()?;
            let right = status.success() && (lines.is_empty() || shows(&shown, lines)?);
            ensure!(right || !lines.is_empty(), "{status}: {shown}");
            Ok(right.then_some(()))
        });
        result.with_context(|| format!("the program prints {shown:?}, not {lines:?}"))
    }

    /// Starts a program, and waits until it listens, sleeps, or has ended.
    fn begin(&self, run: &Run, command: &str) -> Result<(Process, Start)> {
        let mut line = command.to_owned();
        if run.arguments.is_empty() && !self.substitutes.is_empty() {
            line += " -- 127.0.0.1:0";
        }
        let mut running = run.launch(&line).spawn()?;
        let listens = Regex::new(r" listening on (\S+)\n")?;
        let (mut awake, mut asleep) = (Instant::now(), 0);
        let start = wait_until("the program being ready", TIMEOUT, || {
            if let Some(address) = listens.captures(&running.log()?) {
                return Ok(Some(Start::Listens(address[1].parse()?)));
            }
            if let Ok((status, _)) = running.wait(Duration::ZERO) {
                return Ok(Some(Start::Ended(status)));
            }
            let waits = run.binary.is_mode() && running.is_itself() && running.is_asleep()?;
            if waits {
                asleep += 1;
            } else {
                (awake, asleep) = (Instant::now(), 0);
            }
            let is_long = awake.elapsed() > ASLEEP && asleep >= CHECKS;
            Ok(is_long.then_some(Start::Sleeps))
        });
        let start = start.with_context(|| running.log().unwrap_or_default())?;
        let address = if let Start::Listens(address) = start { Some(address) } else { None };
        if let Some(address) = address.filter(|_| self.substitutes.is_empty()) {
            ensure!(address.port() == run.port()?, "it listens on {address}");
        }
        let (run, lines) = (run.clone(), Vec::new());
        Ok((Process { run, running, lines, address, is_tried: false }, start))
    }

    /// Sends what the user of `nc` types, and expects what `nc` prints.
    fn converse(&mut self, options: &[&str], port: u16, lines: &[String]) -> Result<()> {
        let is_its = |it: &&mut Process| it.run.port().is_ok_and(|its| its == port);
        let process = self.running.iter_mut().find(is_its).context("no server listens there")?;
        let address = process.address.context("the server does not listen")?;
        process.is_tried = !lines.is_empty();
        match options {
            ["-u"] => conversation::echo_datagrams(address, lines),
            // The page shows no lines. A client talks to the server at the end of the session.
            [] if lines.is_empty() => Ok(()),
            [] if conversation::is_chat(lines) => conversation::chat(address, lines),
            [] => conversation::echo(address, lines),
            _ => bail!("what does {options:?} do? Add it to tests/readme/session.rs"),
        }
    }
}

impl Process {
    /// Checks the log with `RUST_LOG=trace` while a client connects and, later, sends a line. Times,
    /// ports, and the numbers of file descriptors may differ.
    fn expect_log(&mut self, lines: &[String]) -> Result<()> {
        let address = self.address.context("the server does not listen")?;
        let client = Client::connect_to(address)?;
        wait_until("the server waiting for the client", TIMEOUT, || {
            let log = self.running.log()?;
            Ok((log.contains(" connected\n") && self.running.is_asleep()?).then_some(()))
        })?;
        client.echo(b"hello\n")?;
        let logged = wait_until("the log having all lines", TIMEOUT, || {
            let log = self.running.log()?;
            Ok((log.lines().count() >= lines.len()).then_some(log))
        })?;

        let vary = Regex::new(r"^ *[0-9.]+ |127\.0\.0\.1:[0-9]+|\([0-9]+\)")?;
        for (logged, line) in logged.lines().zip(lines) {
            let (same, shown) = (vary.replace_all(logged, "…"), vary.replace_all(line, "…"));
            ensure!(same == shown, "the server logs {logged:?}, not {line:?}");
        }
        client.finish()
    }

    /// Talks to the server, unless a client already has, or it has a protocol of its own.
    fn greet(&self) -> Result<()> {
        let is_untried = |_: &SocketAddr| !self.is_tried && !self.run.binary.is_mode();
        self.address.filter(is_untried).map_or(Ok(()), |address| self.run.binary.greet(address))
    }

    /// Ends the program with SIGTERM when it has printed what it should.
    fn stop(&mut self) -> Result<()> {
        if !self.lines.is_empty() {
            let mut shown = String::new();
            let result = wait_until("the program printing what it should", TIMEOUT, || {
                shown = self.running.log()?;
                Ok(shows(&shown, &self.lines)?.then_some(()))
            });
            result
                .with_context(|| format!("the program prints {shown:?}, not {:?}", self.lines))?;
        }
        self.running.signal(Signal::TERM)?;
        let (status, _) = self.running.wait(TIMEOUT)?;
        ensure!(status.success(), "{status}: {}", self.running.log()?);
        Ok(())
    }
}

/// Whether the output has exactly these lines, besides those of the log, which begin with a time.
fn shows(shown: &str, lines: &[String]) -> Result<bool> {
    let log = Regex::new("^ *[0-9]+[.][0-9]+ [A-Z]+ ")?;
    Ok(shown.lines().filter(|line| !log.is_match(line)).eq(lines))
}
