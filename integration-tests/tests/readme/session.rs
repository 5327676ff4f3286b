//! Commands and what they show, one after the other, as a reader types them in several terminals.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use contract::{Client, Launch, Server, TIMEOUT, wait_until};
use integration_tests::{Binary, Workspace, workspace};
use regex::Regex;
use rustix::process::Signal;

use crate::{Lack, conversation};

/// A program that sleeps in so many looks one after the other, for two seconds or more, waits for
/// something to come: those that end by themselves do not sleep for so long.
const ASLEEP: usize = 400;

/// Held while Cargo builds something, which would have others wait for longer than they expect; and
/// by a session, as the ports that the commands name are the same in many.
static ALONE: Mutex<()> = Mutex::new(());

/// See [`ALONE`].
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command, and the lines that follow on the screen.
#[derive(Clone, Debug)]
pub struct Step {
    pub command: String,
    pub lines: Vec<String>,
}

impl Step {
    pub fn new(command: impl Into<String>) -> Self {
        Self { command: command.into(), lines: Vec::new() }
    }

    /// Those of a block in which commands begin with `$`.
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
    /// `None` for what is no `cargo run`.
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

    /// A demonstration, which ends by itself.
    fn is_demonstration(&self) -> bool {
        self.binary.is_mode() && self.arguments.is_empty()
    }

    /// The port that it listens on, if it is a server.
    fn port(&self) -> Result<u16> {
        let port = self.arguments.iter().find_map(|it| it.strip_prefix("127.0.0.1:"));
        Ok(port.map_or(Ok(if self.binary.is_chat() { 7001 } else { 7000 }), str::parse)?)
    }

    /// Builds it, which may take its time.
    pub fn build(&self) -> Result<()> {
        let Binary { package, name, .. } = &self.binary;
        let mut cargo = Command::new(workspace::cargo());
        let output = cargo.args(["build", "-p", package, "--bin", name]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Ready to start with a line of shell.
    pub fn launch(&self, line: &str) -> Launch {
        // Once for each command of a page.
        Launch::shell(self.binary.name.clone().leak(), line)
    }
}

/// Does what the steps say, sees what they show, stops what runs on, and sees it end well.
pub fn run(steps: &[Step], workspace: &Workspace) -> Result<()> {
    let _alone = alone();
    let result = Session::new(workspace, Vec::new()).play(steps);
    let taken = |error: &anyhow::Error| format!("{error:#}").contains("(os error 98)");
    if !result.as_ref().is_err_and(taken) {
        return result;
    }
    // Something else on this machine has one of the ports: the same on others.
    Session::new(workspace, substitutes(steps)?).play(steps)
}

/// Free ports for those that are named, in the same order.
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
    /// Ports, and which to take instead.
    substitutes: Vec<(u16, u16)>,
    running: Vec<Process>,
}

/// What runs on.
struct Process {
    run: Run,
    running: Server,
    /// What it shows sooner or later.
    lines: Vec<String>,
    /// What it listens on.
    address: Option<SocketAddr>,
    /// Somebody has talked to it.
    is_tried: bool,
}

/// How far a program has come that was just started.
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
            if let Some(lack) = run.binary.unavailable() {
                bail!(Lack(lack));
            }
            run.build()?;
            return if run.is_demonstration() {
                let output = run.launch(&command).output_within(3 * TIMEOUT)?;
                ensure!(output.status.success(), "{}: {}", output.status, output.stderr);
                Ok(())
            } else if run.is_traced && !lines.is_empty() {
                self.start(&run, &command, &[])?;
                self.running.last_mut().context("it has ended")?.tells(&lines)
            } else {
                self.start(&run, &command, &lines)
            };
        }
        match step.command.split(' ').collect::<Vec<_>>().as_slice() {
            ["nc", options @ .., "127.0.0.1", port] => {
                self.converse(options, port.parse()?, &lines)
            }
            // Where it is not there, no harm is done.
            ["curl", _] if Command::new("curl").arg("--version").output().is_err() => Ok(()),
            ["curl", _] => {
                let shown = Launch::shell("curl", &command).output()?.stdout;
                ensure!(shown.lines().eq(&lines), "it shows {shown:?}");
                Ok(())
            }
            _ => bail!("how is that run? Teach tests/readme/session.rs"),
        }
    }

    /// The text with other ports.
    fn translate(&self, text: &str) -> String {
        self.substitutes.iter().fold(text.to_owned(), |text, (port, other)| {
            text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{other}"))
        })
    }

    /// Starts a program that shows these lines, if any: now, if it ends by itself; or later.
    ///
    /// One that ends has some time for it: a reader takes longer from one command to the next than
    /// parts that have to find each other.
    fn start(&mut self, run: &Run, command: &str, lines: &[String]) -> Result<()> {
        let mut shown = String::new();
        let result = wait_until("it showing what it should", TIMEOUT, || {
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
        result.with_context(|| format!("it shows {shown:?} in place of {lines:?}"))
    }

    /// Starts a program, and waits until it has ended, or waits itself.
    fn begin(&self, run: &Run, command: &str) -> Result<(Process, Start)> {
        let mut line = command.to_owned();
        if run.arguments.is_empty() && !self.substitutes.is_empty() {
            line += " -- 127.0.0.1:0";
        }
        let mut running = run.launch(&line).spawn()?;
        let listens = Regex::new(r" listening on (\S+)\n")?;
        let mut asleep = 0;
        let start = wait_until("it being ready", TIMEOUT, || {
            if let Some(address) = listens.captures(&running.log()?) {
                return Ok(Some(Start::Listens(address[1].parse()?)));
            }
            if let Ok((status, _)) = running.wait(Duration::ZERO) {
                return Ok(Some(Start::Ended(status)));
            }
            let waits = run.binary.is_mode() && running.is_itself() && running.is_asleep()?;
            asleep = if waits { asleep + 1 } else { 0 };
            Ok((asleep == ASLEEP).then_some(Start::Sleeps))
        });
        let start = start.with_context(|| running.log().unwrap_or_default())?;
        let address = if let Start::Listens(address) = start { Some(address) } else { None };
        if let Some(address) = address.filter(|_| self.substitutes.is_empty()) {
            ensure!(address.port() == run.port()?, "it listens on {address}");
        }
        let (run, lines) = (run.clone(), Vec::new());
        Ok((Process { run, running, lines, address, is_tried: false }, start))
    }

    /// Types and reads what `nc` types and shows.
    fn converse(&mut self, options: &[&str], port: u16, lines: &[String]) -> Result<()> {
        let is_its = |it: &&mut Process| it.run.port().is_ok_and(|its| its == port);
        let process = self.running.iter_mut().find(is_its).context("nothing listens there")?;
        let address = process.address.context("it does not listen")?;
        process.is_tried = !lines.is_empty();
        match options {
            ["-u"] => conversation::echo_datagrams(address, lines),
            [] if conversation::is_chat(lines) => conversation::chat(address, lines),
            [] => conversation::echo(address, lines),
            _ => bail!("what does {options:?} do? Teach tests/readme/session.rs"),
        }
    }
}

impl Process {
    /// With `RUST_LOG=trace`: while somebody comes and, later, says hello, it tells these lines, if
    /// times, ports and the numbers of descriptors are not looked at.
    fn tells(&mut self, lines: &[String]) -> Result<()> {
        let address = self.address.context("it does not listen")?;
        let client = Client::connect_to(address)?;
        wait_until("its waiting for the client", TIMEOUT, || {
            let log = self.running.log()?;
            Ok((log.contains(" came\n") && self.running.is_asleep()?).then_some(()))
        })?;
        client.echo(b"hello\n")?;
        let told = wait_until("its telling so many lines", TIMEOUT, || {
            let log = self.running.log()?;
            Ok((log.lines().count() >= lines.len()).then_some(log))
        })?;

        let vary = Regex::new(r"^ *[0-9.]+ |127\.0\.0\.1:[0-9]+|\([0-9]+\)")?;
        for (told, line) in told.lines().zip(lines) {
            let (same, shown) = (vary.replace_all(told, "…"), vary.replace_all(line, "…"));
            ensure!(same == shown, "it tells {told:?} where {line:?} is shown");
        }
        client.finish()
    }

    /// If nobody has talked to it, and all of its kind answer alike.
    fn greet(&self) -> Result<()> {
        let unknown = |_: &SocketAddr| !self.is_tried && !self.run.binary.is_mode();
        self.address.filter(unknown).map_or(Ok(()), |address| self.run.binary.greet(address))
    }

    /// Ends it, as `kill` would, when it has said what it should.
    fn stop(&mut self) -> Result<()> {
        if !self.lines.is_empty() {
            let mut shown = String::new();
            let result = wait_until("it showing what it should", TIMEOUT, || {
                shown = self.running.log()?;
                Ok(shows(&shown, &self.lines)?.then_some(()))
            });
            result.with_context(|| format!("it shows {shown:?} in place of {:?}", self.lines))?;
        }
        self.running.signal(Signal::TERM)?;
        let (status, _) = self.running.wait(TIMEOUT)?;
        ensure!(status.success(), "{status}: {}", self.running.log()?);
        Ok(())
    }
}

/// Whether exactly these lines were shown, beside those of the log, which come with times.
fn shows(shown: &str, lines: &[String]) -> Result<bool> {
    let log = Regex::new("^ *[0-9]+[.][0-9]+ [A-Z]+ ")?;
    Ok(shown.lines().filter(|line| !log.is_match(line)).eq(lines))
}
