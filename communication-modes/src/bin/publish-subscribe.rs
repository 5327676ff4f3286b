//! Asynchronous broadcast by subscription: who has news tells a broker, who wants news tells the
//! broker which, and neither knows the other. The words are those of NATS, so that a client from
//! here talks to a real nats-server, and a real client to the broker here.
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
//! A message: (1) subscribers have left the patterns they want; (2) the publisher hands over the
//! message and is done; (3) the broker puts it into the outbox of each subscription that matches,
//! one of each queue group, and (4) a thread for each client sends what is in its outbox. (5) A
//! client whose outbox is full is dropped: nobody waits for a subscriber that does not read.
//!
//! Run: `cargo run -p communication-modes --bin publish-subscribe`, or as separate processes, with
//! `nats-server` for the first if you like:
//!
//! ```text
//! $ cargo run -p communication-modes --bin publish-subscribe serve 127.0.0.1:4222
//! $ cargo run -p communication-modes --bin publish-subscribe subscribe 127.0.0.1:4222 'news.>'
//! $ cargo run -p communication-modes --bin publish-subscribe publish 127.0.0.1:4222 news.sport 2:1
//! ```
//!
//! Use it when: one message is for many, or for whoever is there, and parts come and go.
//! Limits: at most once: who is not there misses it, and the publisher never learns. All of it
//! goes through one broker. Next: a cluster of nats-servers, whose addresses our client takes too,
//! `a:4222,b:4222`; where messages must be kept, NATS JetStream, Kafka or RabbitMQ.
//! Compare with: `reactor-chat` (one room; here the subject makes the rooms).

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use common::{Misuse, exit_on_stop, listen, run_roles};
use communication_modes::nats::{
    Client, Op, Subscriptions, follow, is_pattern, is_subject, parse, read_payload, switch,
};
use communication_modes::{CONNECTIONS, Process, linger, lock, read_line, serve};
use log::{info, warn};

const USAGE: &str = "\
Usage: publish-subscribe                                   a demonstration
       publish-subscribe serve [ADDR [IDLE]]               the broker [default: 127.0.0.1:4222 120]
       publish-subscribe subscribe ADDR[,ADDR...] SUBJECT [QUEUE]
       publish-subscribe publish ADDR[,ADDR...] SUBJECT TEXT
A client that was silent for IDLE seconds must answer a PING within as many.
";
/// The longest line, the largest payload: NATS' defaults.
const LINE: usize = 4096;
const PAYLOAD: usize = 1 << 20;
/// The most that waits for one client. NATS' default is 64 MiB, for machines that do nothing else.
const PENDING: usize = 8 << 20;
/// How long a client may take nothing of what is sent to it.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    run_roles(USAGE, |args| match *args {
        [] => demonstrate(),
        ["serve"] => serve_nats("127.0.0.1:4222", "120"),
        ["serve", addr] => serve_nats(addr, "120"),
        ["serve", addr, idle] => serve_nats(addr, idle),
        ["subscribe", addrs, subject] => subscribe(addrs, subject, None),
        ["subscribe", addrs, subject, queue] => subscribe(addrs, subject, Some(queue)),
        ["publish", addrs, subject, text] => publish(addrs, subject, text),
        _ => bail!(Misuse),
    })
}

/// A client, as the broker sees it.
struct Peer {
    addr: SocketAddr,
    stream: TcpStream,
    outbox: Mutex<Outbox>,
    /// The outbox has something, or is closed.
    filled: Condvar,
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
    /// How long a client may be silent.
    idle: Duration,
}

fn serve_nats(addr: &str, idle: &str) -> anyhow::Result<()> {
    exit_on_stop()?;
    let idle = idle.parse().ok().filter(|idle| *idle > 0);
    let idle = Duration::from_secs(idle.context("IDLE is a number of seconds")?);
    let broker = Broker { subscriptions: Mutex::default(), idle };
    serve(&listen(addr)?, CONNECTIONS, move |stream| broker.converse(stream))
}

impl Broker {
    fn converse(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_read_timeout(Some(self.idle))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (outbox, filled) = <_>::default();
        let peer = Arc::new(Peer { addr: stream.peer_addr()?, stream, outbox, filled });
        let result = thread::scope(|scope| {
            thread::Builder::new().spawn_scoped(scope, || peer.send_on())?;
            peer.send(&[
                b"INFO {\"server_id\":\"publish-subscribe\",\"version\":\"2.0.0\",\"proto\":1,",
                format!("\"headers\":false,\"max_payload\":{PAYLOAD}}}\r\n").as_bytes(),
            ]);
            let result = self.obey(&peer);
            lock(&self.subscriptions).leave(&peer);
            if let Some(error) = result.as_ref().err().filter(|error| !error.is::<io::Error>()) {
                peer.send(&[format!("-ERR '{error}'\r\n").as_bytes()]);
            }
            peer.close();
            result
        });
        linger(&peer.stream);
        result
    }

    /// Does what the client says, until it leaves or says what is none of the protocol.
    fn obey(&self, peer: &Arc<Peer>) -> anyhow::Result<()> {
        let mut input = BufReader::new(&peer.stream);
        let (mut verbose, mut echo, mut asked) = (true, true, false);
        loop {
            match input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !asked => {
                    asked = true;
                    peer.send(&[b"PING\r\n"]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("Stale Connection"),
                _ => asked = false, // An error comes again.
            }
            let Some(line) = read_line(&mut input, LINE)? else { return Ok(()) };
            let answer: &[u8] = match parse(&line) {
                Some(Op::Ping) => b"PONG\r\n",
                Some(Op::Pong) => b"",
                Some(Op::Connect(options)) => {
                    verbose = switch(options, "verbose").unwrap_or(verbose);
                    echo = switch(options, "echo").unwrap_or(echo);
                    b"+OK\r\n"
                }
                Some(Op::Sub { subject, .. }) if !is_pattern(subject) => {
                    b"-ERR 'Invalid Subject'\r\n"
                }
                Some(Op::Sub { subject, queue, sid }) => {
                    lock(&self.subscriptions).add(peer, sid, subject, queue)?; // (1)
                    b"+OK\r\n"
                }
                Some(Op::Unsub { sid, max }) => {
                    lock(&self.subscriptions).end(peer, sid, max.unwrap_or(0));
                    b"+OK\r\n"
                }
                Some(Op::Pub { subject, reply, size }) => {
                    ensure!(size <= PAYLOAD, "Maximum Payload Violation");
                    let payload = read_payload(&mut input, size)?; // (2)
                    if is_subject(subject) {
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
        outbox.bytes.extend(parts.iter().copied().flatten());
        if outbox.closed {
            outbox.bytes.clear();
        } else if outbox.bytes.len() + outbox.under_way > PENDING {
            warn!("{} dropped: it does not read", self.addr); // (5)
            *outbox = Outbox { closed: true, ..Outbox::default() };
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        self.filled.notify_one();
    }

    /// Nothing more is sent than what is in the outbox.
    fn close(&self) {
        lock(&self.outbox).closed = true;
        self.filled.notify_one();
    }

    /// Sends what is in the outbox (4), until it is closed and empty.
    fn send_on(&self) {
        let mut outbox = lock(&self.outbox);
        while !(outbox.closed && outbox.bytes.is_empty()) {
            if outbox.bytes.is_empty() {
                outbox = self.filled.wait(outbox).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let bytes = mem::take(&mut outbox.bytes);
            outbox.under_way = bytes.len();
            drop(outbox);
            let sent = (&self.stream).write_all(&bytes);
            outbox = lock(&self.outbox);
            outbox.under_way = 0;
            if let Err(error) = sent {
                info!("{} lost: {error}", self.addr);
                *outbox = Outbox { closed: true, ..Outbox::default() };
                // The thread that reads hears of it.
                let _ = self.stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn publish(addrs: &str, subject: &str, text: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(addrs)?;
    client.publish(subject, text.as_bytes())?;
    client.flush()
}

fn subscribe(addrs: &str, subject: &str, queue: Option<&str>) -> anyhow::Result<()> {
    exit_on_stop()?;
    follow(addrs, subject, queue, |subject, payload| {
        println!("{subject}: {}", String::from_utf8_lossy(payload));
    })
}

fn demonstrate() -> anyhow::Result<()> {
    let mut broker = Process::server("broker", &["serve", "127.0.0.1:0"])?;
    let addr = broker.addr.clone();
    let subscriber = |name, args: &[&str]| -> anyhow::Result<Process> {
        let process = Process::client(name, &[&["subscribe", &addr], args].concat())?;
        process.expect("subscribed")?;
        Ok(process)
    };
    let publish = |subject, text| publish(&addr, subject, text);
    let reader = subscriber("reader", &["news.>"])?;
    let _workers = [
        subscriber("worker 1", &["jobs", "workers"])?,
        subscriber("worker 2", &["jobs", "workers"])?,
    ];
    println!("--- news for all who want them; jobs for one of the workers each");
    publish("news.sport", "2:1")?;
    publish("news.weather.today", "rain")?;
    publish("nobody.listens", "lost")?;
    ["first", "second", "third"].iter().try_for_each(|text| publish("jobs", text))?;
    println!("--- the broker is killed, and another takes its place");
    broker.kill()?;
    let _broker = Process::server("broker", &["serve", &addr])?;
    reader.expect("subscribed")?;
    publish("news.sport", "2:2")?;
    reader.expect("2:2")?;
    Ok(())
}
