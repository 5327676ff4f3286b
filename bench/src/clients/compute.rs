//! A chat in which one client makes the server compute, while another sends lines to a third.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use common::chat::{Computation, Effects, Room};

use super::{Tally, connections};
use crate::host;

/// Commands that the computing client has in flight, so that the server always has the next one.
const WINDOW: usize = 2;
/// Characters per line, without the name that the server adds.
const LINE_LENGTH: usize = 56;
/// The largest prime number that `/factor` accepts: no other number takes longer.
const LARGEST: u64 = 999_999_999_999_989;
/// How often a computation is repeated to measure it. The shortest time counts.
const REPEATS: usize = 3;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a computation takes, about. With 0 there are none.
    pub milliseconds: u64,
    /// The average time between a line and the next one.
    pub pause: Duration,
    /// How long the server may send nothing.
    pub timeout: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Results {
    /// The lines, and the time until each was received.
    pub lines: Tally,
    /// The computations that ended in this time.
    pub computations: u64,
}

/// The clients.
#[derive(Debug)]
pub struct ComputeClients {
    sender: Client,
    receiver: Client,
    computing: Client,
    settings: Settings,
}

impl ComputeClients {
    /// Connects the three clients.
    ///
    /// # Errors
    /// Fails if the server does not greet them.
    pub fn connect(addr: SocketAddr, settings: Settings) -> Result<Self> {
        let client = || Client::connect(addr, settings.timeout);
        let (mut sender, mut receiver, computing) = (client()?, client()?, client()?);
        sender.expect(&format!("* {} joined", receiver.name))?;
        sender.expect(&format!("* {} joined", computing.name))?;
        receiver.expect(&format!("* {} joined", computing.name))?;
        Ok(Self { sender, receiver, computing, settings })
    }

    /// Lets one client compute for all of the time, and another one send lines. Calls `measured`
    /// when the time begins and when it ends.
    ///
    /// # Errors
    /// Fails if the server sends a wrong line, or none within the timeout.
    pub fn run(
        &mut self,
        time: Duration,
        mut measured: impl FnMut() -> Result<()>,
    ) -> Result<Results> {
        let number = prime_for(self.settings.milliseconds);
        let (stop, computed) = (AtomicBool::new(false), AtomicU64::new(0));
        let (sender, receiver, computing) =
            (&mut self.sender, &mut self.receiver, &mut self.computing);
        thread::scope(|scope| {
            let thread = scope.spawn(|| match number {
                Some(number) => compute(computing, number, &stop, &computed),
                None => Ok(()),
            });
            let pause = self.settings.pause;
            let lines = (|| {
                // Until the server computes.
                send_lines(sender, receiver, pause, 4 * pause)?;
                measured()?;
                let before = computed.load(Ordering::Relaxed);
                let lines = send_lines(sender, receiver, pause, time)?;
                let computations = computed.load(Ordering::Relaxed) - before;
                measured()?;
                Ok(Results { lines, computations })
            })();
            stop.store(true, Ordering::Relaxed);
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            lines
        })
    }
}

/// Keeps the server computing until `stop`, and counts what it has computed.
fn compute(
    client: &mut Client,
    number: u64,
    stop: &AtomicBool,
    computed: &AtomicU64,
) -> Result<()> {
    let command = format!("/factor {number}");
    let reply = format!("* {number} = {number}");
    for _ in 0..WINDOW {
        client.send(&command)?;
    }
    let mut in_flight = WINDOW;
    while in_flight > 0 {
        // A line of the sender may come between two replies.
        client.expect_reply(&reply)?;
        computed.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            in_flight -= 1;
        } else {
            client.send(&command)?;
        }
    }
    Ok(())
}

/// Sends lines at moments that do not depend on the server: the pause between two lines is random,
/// up to twice `pause`.
fn send_lines(
    sender: &mut Client,
    receiver: &mut Client,
    pause: Duration,
    time: Duration,
) -> Result<Tally> {
    let mut tally = Tally::new();
    let mut random = fastrand::Rng::with_seed(1);
    let end = Instant::now() + time;
    while Instant::now() < end {
        thread::sleep(pause.mul_f64(2.0 * random.f64()));
        let text = format!("{:0LINE_LENGTH$}", sender.next_line);
        sender.next_line += 1;
        let line = format!("{}: {text}", sender.name);
        let sent = Instant::now();
        sender.send(&text)?;
        receiver.expect(&line)?;
        tally.record(sent.elapsed());
        tally.messages += 1;
    }
    Ok(tally)
}

/// A client in a blocking mode.
#[derive(Debug)]
struct Client {
    stream: BufReader<TcpStream>,
    /// The name that the server gave it.
    name: String,
    line: String,
    /// The number of its next line.
    next_line: usize,
}

impl Client {
    fn connect(addr: SocketAddr, timeout: Duration) -> Result<Self> {
        let stream = BufReader::new(connections::open(addr, timeout)?);
        let mut client = Self { stream, name: String::new(), line: String::new(), next_line: 0 };
        let greeting = client.receive()?;
        let name = greeting.strip_prefix("* you are ").and_then(|rest| rest.split_once(';'));
        let name = name.ok_or_else(|| anyhow!("the server greets with {greeting:?}"))?.0;
        name.clone_into(&mut client.name);
        Ok(client)
    }

    fn send(&mut self, line: &str) -> Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).context("cannot send")
    }

    fn receive(&mut self) -> Result<String> {
        self.line.clear();
        let count = self.stream.read_line(&mut self.line).context("the server sent no line")?;
        ensure!(count > 0, "the server closed the connection");
        Ok(self.line.trim_end().to_owned())
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        let line = self.receive()?;
        ensure!(line == expected, "received {line:?} instead of {expected:?}");
        Ok(())
    }

    /// Receives a reply, and ignores what other clients say before it.
    fn expect_reply(&mut self, expected: &str) -> Result<()> {
        loop {
            let line = self.receive()?;
            if line == expected {
                return Ok(());
            }
            if line.starts_with(['*', '!']) {
                bail!("received {line:?} instead of {expected:?}");
            }
        }
    }
}

/// Numbers whose computation takes about a millisecond, and about ten.
static PRIMES: LazyLock<[(u64, u64); 2]> = LazyLock::new(|| {
    let longest = (0..REPEATS).map(|_| time_to_factor(LARGEST)).min().unwrap_or_default();
    [1, 10].map(|milliseconds| (milliseconds, find_prime(milliseconds, longest)))
});

/// Measures how long the server will take for some numbers. Later calls of [`prime_for`] are
/// quick.
pub fn calibrate() {
    LazyLock::force(&PRIMES);
}

/// Returns a number whose computation takes about this long on this machine.
fn prime_for(milliseconds: u64) -> Option<u64> {
    PRIMES.iter().find(|(time, _)| *time == milliseconds).map(|(_, prime)| *prime)
}

/// Finds a prime number that takes about this long, if [`LARGEST`] takes `longest`. The time grows
/// with the square root of the number.
fn find_prime(milliseconds: u64, longest: Duration) -> u64 {
    let wanted = Duration::from_millis(milliseconds);
    let share = (wanted.as_secs_f64() / longest.as_secs_f64()).min(1.0);
    let start = (LARGEST as f64 * share * share) as u64 | 1;
    let is_prime = |number: &u64| {
        computation(*number).is_some_and(|it| it.run() == format!("{number} = {number}"))
    };
    let mut candidates = (3..=start).rev().step_by(2);
    candidates.find(is_prime).unwrap_or(3)
}

fn time_to_factor(number: u64) -> Duration {
    let Some(computation) = computation(number) else { return Duration::ZERO };
    let start = host::thread_time();
    let reply = computation.run();
    std::hint::black_box(reply);
    host::thread_time().saturating_sub(start)
}

/// Returns what the room makes of `/factor NUMBER`.
fn computation(number: u64) -> Option<Computation> {
    let (mut room, mut effects) = (Room::new(None), Effects::default());
    let id = room.join(Instant::now(), &mut effects);
    let line = format!("/factor {number}\n");
    room.input(id, &mut line.as_bytes(), Instant::now(), &mut effects)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_numbers_are_primes_that_take_longer_and_longer() {
        let one = prime_for(1).expect("there is one");
        let ten = prime_for(10).expect("there is one");
        assert!(one < ten && ten <= LARGEST, "{one} {ten}");
        for prime in [one, ten] {
            let reply = computation(prime).expect("it is a valid number").run();
            assert_eq!(reply, format!("{prime} = {prime}"));
        }
        assert_eq!(prime_for(0), None);
    }

    /// Starts a server for three clients, with this text before each line that it passes on.
    fn start_server(before: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        thread::spawn(move || {
            let mut clients: Vec<TcpStream> = Vec::new();
            for number in 1..=3 {
                let (mut stream, _) = listener.accept().expect("a client connects");
                writeln!(stream, "* you are guest{number}; hello").expect("it receives");
                for mut other in &clients {
                    writeln!(other, "* guest{number} joined").expect("it receives");
                }
                clients.push(stream);
            }
            let [sender, receiver, computing] = <[TcpStream; 3]>::try_from(clients).expect("three");
            thread::spawn(move || {
                let mut writer = computing.try_clone().expect("it can be duplicated");
                for line in BufReader::new(computing).lines().map_while(Result::ok) {
                    let number = line.strip_prefix("/factor ").expect("it is a command");
                    if writeln!(writer, "* {number} = {number}").is_err() {
                        return;
                    }
                }
            });
            let mut receiver = receiver;
            for line in BufReader::new(sender).lines().map_while(Result::ok) {
                if writeln!(receiver, "guest1: {before}{line}").is_err() {
                    return;
                }
            }
        });
        addr
    }

    fn run(addr: SocketAddr) -> Result<Results> {
        let settings = Settings {
            milliseconds: 1,
            pause: Duration::from_millis(1),
            timeout: Duration::from_secs(10),
        };
        let mut clients = ComputeClients::connect(addr, settings)?;
        let mut calls = 0;
        let results = clients.run(Duration::from_millis(50), || {
            calls += 1;
            Ok(())
        })?;
        assert_eq!(calls, 2, "at the beginning and at the end");
        Ok(results)
    }

    #[test]
    fn lines_and_computations_are_counted() {
        let results = run(start_server("")).expect("the server is correct");
        assert!(results.computations > 0 && results.lines.messages > 0);
        assert_eq!(results.lines.messages, results.lines.latency.len());
    }

    #[test]
    fn a_wrong_line_is_found() {
        let error = run(start_server("other ")).expect_err("the server is wrong");
        assert!(format!("{error:#}").contains("instead of"), "{error:#}");
    }
}
