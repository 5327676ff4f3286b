//! Asynchronous point-to-point with a callback: the caller says what is to be done with the
//! answer, and goes on; a reader thread does it once the answer is there.
//!
//! ```text
//!      caller             reader                server
//!  (1) 1 → callback A  ┐
//!      2 → callback B  ┘ the table
//!  (2) "1 300 slow" ─────────────────────────▶  ┐
//!      "2 100 quick" ────────────────────────▶  │ works on both
//!      goes on            "2 kciuq" ◀────────   │
//!                     (3) takes B out, calls it │
//!                         "1 wols" ◀─────────   ┘
//!                     (3) takes A out, calls it
//! ```
//!
//! A call: (1) the callback goes into the table before the request goes out, for the answer may be
//! quick; (2) the request, and the caller is free; (3) an answer with an id from the table; or (4)
//! its time is over; or (5) the connection is lost. Whoever takes a callback out of the table calls
//! it: so each is called exactly once. (6) An answer that is not waited for is reported too.
//!
//! Run: `cargo run -p communication-modes --bin callback`, or as separate processes:
//!
//! ```text
//! $ cargo run -p communication-modes --bin callback serve 127.0.0.1:7200
//! $ cargo run -p communication-modes --bin callback call 127.0.0.1:7200 300:slow 100:quick
//! asked 1: 300 ms for "slow"
//! asked 2: 100 ms for "quick"
//! answer to 2: kciuq
//! answer to 1: wols
//! ```
//!
//! Use it when: the caller has other things to do, or many requests under way on one connection.
//! Limits: a callback that waits keeps all others waiting. What happens is no longer in the order
//! of the program's lines: that is what `async` and `await` put right again.
//! Compare with: `communication-modes/src/bin/synchronous.rs` (there the caller waits).

use std::collections::BTreeMap;
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use common::{Misuse, announce, exit_on_stop, listen, lock, run_roles};
use communication_modes::{CONNECTIONS, Process, connect, read_line, serve};

const USAGE: &str = "\
Usage: callback                          a demonstration
       callback serve ADDR               the server
       callback call ADDR MS:TEXT...     ask it for work of MS milliseconds on TEXT
";
/// How long the caller waits for an answer. It is the same for all: the oldest ends first.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests of one connection at once, and bytes of one.
const UNDER_WAY: usize = 64;
const LINE: usize = 4096;
/// The most work that one request may ask for.
const WORK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    run_roles(USAGE, |args| match args {
        [] => demonstrate(),
        ["serve", addr] => {
            exit_on_stop()?;
            let listener = listen(addr)?;
            announce(listener.local_addr()?);
            serve(&listener, CONNECTIONS, |stream| converse(stream))
        }
        ["call", addr, requests @ ..] if !requests.is_empty() => call_all(addr, requests),
        _ => bail!(Misuse),
    })
}

fn demonstrate() -> anyhow::Result<()> {
    let mut server = Process::server("server", &["serve", "127.0.0.1:0"])?;
    println!(
        "--- answers come as the work is done: after a second, nobody waits for them any more"
    );
    let requests = ["300:slow", "1500:too slow", "100:quick", "1700:slower still"];
    Process::client("caller", &[&["call", &server.addr], &requests[..]].concat())?.wait()?;
    println!("--- the server is killed with two requests under way");
    let mut caller = Process::client("caller", &["call", &server.addr, "900:one", "901:two"])?;
    caller.expect("asked 2")?;
    server.kill()?;
    caller.wait().map(drop)
}

type Callback = Box<dyn FnOnce(io::Result<String>) + Send>;

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u64, (Instant, Callback)>,
    last_id: u64,
    lost: Option<String>, // Why the connection is gone.
}

struct Caller {
    table: Mutex<Table>,
    /// The table has an entry more, or is lost: the timer looks again.
    changed: Condvar,
    stream: TcpStream,
    /// Held while a request goes out, so that it goes out whole.
    output: Mutex<()>,
}

impl Caller {
    /// `stray` is called with an answer nobody waits for.
    fn connect(addr: &str, stray: impl Fn(&str) + Send + 'static) -> anyhow::Result<Arc<Self>> {
        let stream = connect(addr, Instant::now() + PATIENCE);
        let stream = stream.with_context(|| format!("cannot call {addr}"))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (table, changed, output) = <_>::default();
        let caller = Arc::new(Self { table, changed, stream, output });
        let (reader, timer) = (Arc::clone(&caller), Arc::clone(&caller));
        thread::Builder::new().spawn(move || reader.read_answers(stray))?;
        thread::Builder::new().spawn(move || timer.end_the_overdue())?;
        Ok(caller)
    }

    /// Returns at once; `callback` will be called exactly once.
    fn call(&self, request: &str, callback: Callback) {
        let mut table = lock(&self.table);
        let refusal = match &table.lost {
            Some(reason) => Some(io::Error::new(ErrorKind::ConnectionAborted, reason.clone())),
            None if table.waiting.len() == UNDER_WAY => Some(ErrorKind::QuotaExceeded.into()),
            None => None,
        };
        if let Some(error) = refusal {
            drop(table); // A callback may call again.
            return callback(Err(error));
        }
        table.last_id += 1;
        let id = table.last_id;
        table.waiting.insert(id, (Instant::now() + PATIENCE, callback)); // (1)
        drop(table);
        self.changed.notify_one();
        let _whole = lock(&self.output);
        let sent = (&self.stream).write_all(format!("{id} {request}\n").as_bytes()); // (2)
        if sent.is_err() {
            let _ = self.stream.shutdown(Shutdown::Both); // The reader hears of it: (5).
        }
    }

    fn read_answers(&self, stray: impl Fn(&str)) {
        let mut input = BufReader::new(&self.stream);
        let reason = loop {
            let answer = match read_line(&mut input, LINE) {
                Ok(Some(answer)) => answer,
                Ok(None) => break "the server closed it".to_owned(),
                Err(error) => break error.to_string(),
            };
            let Some((id, text)) = answer.split_once(' ') else {
                break format!("{answer:?} is no answer");
            };
            let entry = id.parse().ok().and_then(|id| lock(&self.table).waiting.remove(&id));
            match entry {
                Some((_, callback)) => callback(Ok(text.to_owned())), // (3)
                None => stray(&answer),                               // (6)
            }
        };
        let _ = self.stream.shutdown(Shutdown::Both);
        let mut table = lock(&self.table);
        table.lost = Some(reason.clone());
        let waiting = std::mem::take(&mut table.waiting);
        drop(table);
        self.changed.notify_one();
        for (_, callback) in waiting.into_values() {
            callback(Err(io::Error::new(ErrorKind::ConnectionAborted, reason.clone()))); // (5)
        }
    }

    fn end_the_overdue(&self) {
        let mut table = lock(&self.table);
        while table.lost.is_none() {
            // Ids are in the order of the deadlines.
            let oldest = table.waiting.values().next();
            let left = oldest.map_or(Duration::MAX, |(due, _)| *due - Instant::now());
            if left.is_zero() {
                let oldest = table.waiting.pop_first();
                drop(table);
                if let Some((_, (_, callback))) = oldest {
                    callback(Err(ErrorKind::TimedOut.into())); // (4)
                }
                table = lock(&self.table);
            } else {
                let woken = self.changed.wait_timeout(table, left);
                table = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// Asks for everything at once, and shows what becomes of it.
fn call_all(addr: &str, requests: &[&str]) -> anyhow::Result<()> {
    let (done, outcomes) = mpsc::channel();
    let (late, strays) = mpsc::channel();
    // That nobody reads our stdout is no reason to panic in the reader's thread.
    let say = |text: &str| drop(io::stdout().write_all(format!("{text}\n").as_bytes()));
    let caller = Caller::connect(addr, move |answer| {
        say(&format!("nobody waits for {answer:?}"));
        let _ = late.send(());
    })?;
    for (id, request) in (1..).zip(requests) {
        let (ms, text) = request.split_once(':').context("a request is MS:TEXT")?;
        say(&format!("asked {id}: {ms} ms for {text:?}"));
        let done = done.clone();
        let callback = Box::new(move |outcome: io::Result<String>| {
            match &outcome {
                Ok(answer) => say(&format!("answer to {id}: {answer}")),
                Err(error) => say(&format!("no answer to {id}: {error}")),
            }
            let _ = done.send(outcome.err().map(|error| error.kind()));
        });
        caller.call(&format!("{ms} {text}"), callback);
    }
    let failures: Vec<_> = outcomes.iter().take(requests.len()).flatten().collect();
    // What was given up may come yet.
    let mut late = failures.iter().filter(|kind| **kind == ErrorKind::TimedOut);
    let _ = late.try_for_each(|_| strays.recv_timeout(WORK));
    let (failed, all) = (failures.len(), requests.len());
    ensure!(failed == 0, "{failed} of {all} requests without an answer");
    Ok(())
}

fn converse(stream: &TcpStream) -> anyhow::Result<()> {
    // A semaphore: with as many requests under way, this one waits to begin, and so does the peer.
    let (begin, end) = mpsc::sync_channel(UNDER_WAY);
    let (end, output) = (Mutex::new(end), Mutex::new(stream));
    let work = |(id, time, text): (u64, _, String)| {
        thread::sleep(time);
        let answer = format!("{id} {}\n", text.chars().rev().collect::<String>());
        if lock(&output).write_all(answer.as_bytes()).is_err() {
            let _ = stream.shutdown(Shutdown::Both); // Nobody is left to ask for more.
        }
        let _ = lock(&end).recv();
    };
    thread::scope(|scope| {
        let mut input = BufReader::new(stream);
        while let Some(line) = read_line(&mut input, LINE)? {
            let job = parse(&line).with_context(|| format!("{line:?} is no request"))?;
            begin.send(())?;
            thread::Builder::new().spawn_scoped(scope, || work(job))?;
        }
        Ok(())
    })
}

fn parse(line: &str) -> Option<(u64, Duration, String)> {
    let mut words = line.splitn(3, ' ');
    let (id, ms) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((id, Duration::from_millis(ms).min(WORK), words.next()?.to_owned()))
}
