//! Asynchronous broadcast by subscription: who has news tells a broker, who wants news tells it
//! which, and neither knows the other. All speak NATS, so real clients and servers fit in.
//!
//! ```text
//!      publisher               broker                   subscribers
//!                          (1) news.> → 5 ◀──────────── SUB news.> 1
//!                              jobs → 6 or 7 ◀───────── SUB jobs workers 1 (both)
//!  (2) PUB news.sport 4 ─────▶ ┐
//!      2 : 1                   │ who has subscribed?
//!                          (3) ┘ outbox of 5 ─────────▶ MSG news.sport 1 4
//!  (2) PUB jobs 4 ───────────▶ ┐                        2 : 1
//!      work                (3) ┘ outbox of 7 ─────────▶ MSG jobs 1 4
//! ```
//!
//! A message: (1) subscribers have left the patterns they want; (2) the publisher hands it over and
//! is done; (3) the broker puts it into the outbox of each subscription that matches, and of one in
//! each queue group; (4) a thread for each client sends what is in its outbox. (5) A client whose
//! outbox is full is dropped: nobody waits for a subscriber that does not read.
//!
//! Run: `cargo run -p communication-modes --bin publish-subscribe`, or as separate processes, with
//! `nats-server` for the first if you like:
//!
//! ```text
//! $ cargo run -p communication-modes --bin publish-subscribe serve 127.0.0.1:4222
//! $ cargo run -p communication-modes --bin publish-subscribe subscribe 127.0.0.1:4222 'news.>'
//! news.sport: 2:1
//! $ cargo run -p communication-modes --bin publish-subscribe publish 127.0.0.1:4222 news.sport 2:1
//! ```
//!
//! Use it when: one message is for many, or for whoever is there, and parts come and go.
//! Limits: at most once: who is not there misses it, and the publisher never learns. All of it
//! goes through one broker. Next: a cluster of nats-servers, whose addresses our client takes too,
//! `a:4222,b:4222`; NATS `JetStream` or Kafka, which keep the messages.
//! Compare with: `reactor-chat` (one room; here the subject makes the rooms).

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use common::{Misuse, announce, exit_on_stop, listen, lock, run_roles};
use communication_modes::nats::{self, Op, Subscriptions};
use communication_modes::{CONNECTIONS, Process, read_line, serve};
use log::warn;

const USAGE: &str = "\
Usage: publish-subscribe                                   a demonstration
       publish-subscribe serve ADDR [IDLE]                 the broker; asks who is silent for IDLE
       publish-subscribe subscribe ADDR[,ADDR...] SUBJECT [QUEUE]
       publish-subscribe publish ADDR[,ADDR...] SUBJECT TEXT
                                                           seconds for a sign of life [120]
";
/// The most that waits for one client. NATS' default is 64 MiB, for machines that do nothing else.
const PENDING: usize = 8 << 20;
/// How long a client may take nothing of what is sent to it.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    run_roles(USAGE, |args| match *args {
        [] => demonstrate(),
        ["serve", addr] => serve_nats(addr, "120"),
        ["serve", addr, idle] => serve_nats(addr, idle),
        ["subscribe", addrs, subject, ref queue @ ..] if queue.len() < 2 => {
            exit_on_stop()?;
            nats::follow(addrs, subject, queue.first().copied(), |subject, payload| {
                writeln!(io::stdout(), "{subject}: {}", String::from_utf8_lossy(payload))
            })
        }
        ["publish", addrs, subject, text] => nats::publish(addrs, subject, text),
        _ => bail!(Misuse),
    })
}

/// A client, as the broker sees it.
struct Peer {
    addr: SocketAddr,
    stream: Arc<TcpStream>,
    outbox: Mutex<Outbox>,
    filled: Condvar, // Something is in the outbox, or it is closed.
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Bytes that the thread of (4) has taken out and not sent yet.
    under_way: usize,
    closed: bool,
}

struct Broker {
    subscriptions: Mutex<Subscriptions<Peer>>,
    idle: Duration,
}

fn serve_nats(addr: &str, idle: &str) -> anyhow::Result<()> {
    exit_on_stop()?;
    let idle = idle.parse().ok().filter(|idle| *idle > 0);
    let idle = Duration::from_secs(idle.context("IDLE is a number of seconds")?);
    let broker = Broker { subscriptions: Mutex::default(), idle };
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    serve(&listener, CONNECTIONS, move |stream| broker.converse(stream))
}

impl Broker {
    fn converse(&self, stream: &Arc<TcpStream>) -> anyhow::Result<()> {
        stream.set_read_timeout(Some(self.idle))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (outbox, filled) = <_>::default();
        let (addr, stream) = (stream.peer_addr()?, Arc::clone(stream));
        let peer = Arc::new(Peer { addr, stream, outbox, filled });
        thread::scope(|scope| {
            thread::Builder::new().spawn_scoped(scope, || peer.send_on())?;
            peer.send(&[nats::greeting().as_bytes()]);
            let result = self.obey(&peer);
            lock(&self.subscriptions).leave(&peer);
            if let Some(error) = result.as_ref().err().filter(|error| !error.is::<io::Error>()) {
                peer.send(&[format!("-ERR '{error}'\r\n").as_bytes()]);
            }
            lock(&peer.outbox).closed = true; // Nothing more than what is in it.
            peer.filled.notify_one();
            result
        })
    }

    /// Does what the client says, until it leaves or says what is none of the protocol.
    fn obey(&self, peer: &Arc<Peer>) -> anyhow::Result<()> {
        let mut input = BufReader::new(&*peer.stream);
        let (mut verbose, mut echo, mut asked) = (true, true, false);
        loop {
            match input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(!asked, "Stale Connection");
                    asked = true;
                    peer.send(&[b"PING\r\n"]);
                    continue;
                }
                _ => asked = false, // An error comes again.
            }
            let Some(line) = read_line(&mut input, nats::MAX_LINE)? else { return Ok(()) };
            let answer: &[u8] = match nats::parse(&line).context("Unknown Protocol Operation")? {
                Op::Ping => b"PONG\r\n",
                Op::Pong => b"",
                Op::Connect(options) => {
                    verbose = nats::switch(options, "verbose").unwrap_or(verbose);
                    echo = nats::switch(options, "echo").unwrap_or(echo);
                    b"+OK\r\n"
                }
                Op::Sub { subject, .. } if !nats::is_pattern(subject) => {
                    b"-ERR 'Invalid Subject'\r\n"
                }
                Op::Sub { subject, queue, sid } => {
                    lock(&self.subscriptions).add(peer, sid, subject, queue)?; // (1)
                    b"+OK\r\n"
                }
                Op::Unsub { sid, max } => {
                    lock(&self.subscriptions).end(peer, sid, max.unwrap_or(0));
                    b"+OK\r\n"
                }
                Op::Pub { subject, reply, size } => {
                    let payload = nats::read_payload(&mut input, size)?; // (2)
                    if nats::is_subject(subject) {
                        let except = (!echo).then_some(peer);
                        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
                        // Locked until all have it: everyone gets all messages in the same order.
                        let mut subscriptions = lock(&self.subscriptions);
                        for (taker, sid) in subscriptions.route(subject, except) {
                            let head = format!("MSG {subject} {sid} {reply}{size}\r\n");
                            taker.send(&[head.as_bytes(), &payload, b"\r\n"]); // (3)
                        }
                        b"+OK\r\n"
                    } else {
                        b"-ERR 'Invalid Publish Subject'\r\n"
                    }
                }
                _ => bail!("Unknown Protocol Operation"),
            };
            if verbose || answer != b"+OK\r\n" {
                peer.send(&[answer]);
            }
        }
    }
}

impl Peer {
    /// Puts `parts` into the outbox. It never waits.
    fn send(&self, parts: &[&[u8]]) {
        let mut outbox = lock(&self.outbox);
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if !outbox.closed && outbox.bytes.len() + outbox.under_way + size > PENDING {
            warn!("{} dropped: it does not read", self.addr); // (5)
            self.give_up(&mut outbox);
        }
        if !outbox.closed {
            for part in parts {
                outbox.bytes.extend_from_slice(part);
            }
            self.filled.notify_one();
        }
    }

    /// Sends what is in the outbox (4), until it is closed and empty.
    fn send_on(&self) {
        let idle = |outbox: &mut Outbox| outbox.bytes.is_empty() && !outbox.closed;
        loop {
            let mut outbox = lock(&self.outbox);
            outbox.under_way = 0;
            let outbox = self.filled.wait_while(outbox, idle);
            let mut outbox = outbox.unwrap_or_else(PoisonError::into_inner);
            let bytes = std::mem::take(&mut outbox.bytes);
            outbox.under_way = bytes.len();
            drop(outbox);
            if bytes.is_empty() {
                return;
            }
            if (&*self.stream).write_all(&bytes).is_err() {
                self.give_up(&mut lock(&self.outbox));
            }
        }
    }

    /// Whoever reads from it, or writes to it, hears of it and ends.
    fn give_up(&self, outbox: &mut Outbox) {
        *outbox = Outbox { closed: true, ..Outbox::default() };
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn demonstrate() -> anyhow::Result<()> {
    let mut broker = Process::server("broker", &["serve", "127.0.0.1:0"])?;
    let addr = broker.addr.clone();
    let subscriber = |name, args: &[&str]| -> anyhow::Result<Process> {
        let process = Process::client(name, &[&["subscribe", &addr], args].concat())?;
        process.expect("subscribed").map(|_| process)
    };
    let publish = |subject, text| nats::publish(&addr, subject, text);
    let reader = subscriber("reader", &["news.>"])?;
    let _one = subscriber("worker 1", &["jobs", "workers"])?;
    let _two = subscriber("worker 2", &["jobs", "workers"])?;
    println!("--- news for all who want them; jobs for one of the workers each");
    publish("news.sport", "2:1")?;
    publish("news.weather.today", "rain")?;
    ["first", "second", "third"].iter().try_for_each(|text| publish("jobs", text))?;
    println!("--- the broker is killed, and another takes its place");
    broker.kill()?;
    let _broker = Process::server("broker", &["serve", &addr])?;
    reader.expect("subscribed")?;
    publish("news.sport", "2:2")?;
    reader.expect("2:2").map(drop)
}
