//! Publish-subscribe: publishers send messages to a broker, and subscribers tell the broker which
//! messages they want. Publishers and subscribers do not know each other. The protocol is that of
//! NATS, so the broker works with real NATS clients, and the client with a real NATS server.
//!
//! ```text
//!      publisher               broker                   subscribers
//!                          (1) sport.> → 5 ◀─────────── SUB sport.> 1
//!                              jobs → 6 or 7 ◀───────── SUB jobs workers 1 (from 6 and from 7)
//!  (2) PUB sport.chess 4 ────▶ ┐
//!      draw                    │ which subscriptions match?
//!                          (3) ┘ outbox of 5 ──── (4) ▶ MSG sport.chess 1 4
//!                                                       draw
//!  (2) PUB jobs 4 ───────────▶ ┐
//!      work                (3) ┘ outbox of 7 ──── (4) ▶ MSG jobs 1 4
//!  (5) waits while 64 MiB                               work
//!      are in an outbox
//! ```
//!
//! How a message travels: (1) Each subscriber sends the broker a pattern of subjects. The broker
//! keeps it with the connection, here 5, 6 or 7. (2) A publisher sends a message with a subject to
//! the broker, and continues. (3) The broker appends the message to the outbox of each subscriber
//! whose pattern matches. The members of a queue group share the messages: each message goes to one
//! member. (4) One thread per client sends what is in the outbox.
//!
//! The catch: a subscriber can be slower than a publisher. (5) Once 64 MiB are pending for it, the
//! publisher has to wait: this is the backpressure. But a subscriber that does not read at all must
//! not stop the others. If the next 64 KiB cannot be sent to it within 2 s, the broker disconnects
//! it.
//!
//! Run: `cargo run -p communication-modes --bin publish-subscribe`, or as separate processes. A
//! real `nats-server` can take the place of the first:
//!
//! ```text
//! $ cargo run -p communication-modes --bin publish-subscribe serve 127.0.0.1:4222
//! $ cargo run -p communication-modes --bin publish-subscribe subscribe 127.0.0.1:4222 'sport.>'
//! sport.chess: draw
//! $ cargo run -p communication-modes --bin publish-subscribe publish 127.0.0.1:4222 sport.chess draw
//! ```
//!
//! Use it when: a message is for many receivers, or for any one of a group, and receivers change.
//! Limits: delivery is at most once. A subscriber that is killed loses the messages that are pending
//! for it. One that is not connected misses the message. In both cases the publisher gets no error.
//! A subscriber that reads slowly, but more than 64 KiB in 2 s, slows down all publishers of its
//! subjects. All messages pass through one broker. Next: a cluster of nats-servers,
//! which can also store messages (`JetStream`), with async-nats or nats-py.
//! Compare with: `reactor-chat` (one room; here each subject is a room).

use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use common::lock;
use communication_modes::nats::{self, Op, Options, Peer, Subscriptions};
use communication_modes::{LineTooLong, Misuse, Process, read_line, run_roles, run_server};

const USAGE: &str = "\
Usage: publish-subscribe                          run a demonstration
       publish-subscribe serve ADDR [IDLE]        run a broker
       publish-subscribe subscribe SERVERS SUBJECT [QUEUE]
       publish-subscribe publish SERVERS SUBJECT TEXT
       publish-subscribe request SERVERS SUBJECT TEXT [SECONDS]
       publish-subscribe respond SERVERS SUBJECT TEXT

The broker sends a PING to a client that is silent for IDLE seconds [120].
subscribe prints messages, and respond replies with TEXT, until SIGINT.
request waits for a reply for SECONDS [5].
SERVERS is [nats://]HOST[:PORT], or several, separated by commas. PORT is 4222
unless it is given.
";
/// The most clients at the same time. The broker refuses further ones with `-ERR`, as nats-server
/// does.
const MAX_CLIENTS: usize = 1000;
/// Unanswered PINGs after which a client is disconnected: the default of NATS.
const MAX_PINGS: u32 = 2;

fn main() -> ExitCode {
    run_roles(USAGE, |args| match *args {
        [] => demonstrate(),
        ["serve", addr] => run_broker(addr, "120"),
        ["serve", addr, idle] => run_broker(addr, idle),
        ["subscribe", servers, subject] => nats::subscribe(servers, subject, None),
        ["subscribe", servers, subject, queue] => nats::subscribe(servers, subject, Some(queue)),
        ["publish", servers, subject, text] => nats::publish(servers, subject, text),
        ["respond", servers, subject, text] => nats::respond(servers, subject, text),
        ["request", servers, subject, text] => nats::request(servers, subject, text, "5"),
        ["request", servers, subject, text, seconds] => {
            nats::request(servers, subject, text, seconds)
        }
        _ => bail!(Misuse),
    })
}

struct Broker {
    subscriptions: Mutex<Subscriptions<Peer>>,
    clients: AtomicUsize,
    idle: Duration,
}

fn run_broker(addr: &str, idle: &str) -> anyhow::Result<()> {
    let idle = idle.parse().ok().filter(|idle| *idle > 0);
    let idle = Duration::from_secs(idle.context("IDLE is not a number of seconds")?);
    let (subscriptions, clients) = (Mutex::default(), AtomicUsize::new(0));
    let broker = Broker { subscriptions, clients, idle };
    // A client that is refused needs a connection too, until it has received the reason.
    run_server(addr, MAX_CLIENTS + 100, move |stream| broker.converse(stream))
}

impl Broker {
    fn converse(&self, stream: &Arc<TcpStream>) -> anyhow::Result<()> {
        stream.set_read_timeout(Some(self.idle))?;
        let peer = Arc::new(Peer::new(stream)?);
        thread::scope(|scope| {
            thread::Builder::new().spawn_scoped(scope, || peer.send_pending())?;
            peer.push(&[nats::greeting().as_bytes()]);
            let is_full = self.clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS;
            let result = if is_full {
                Err(anyhow!("maximum connections exceeded"))
            } else {
                self.handle_lines(&peer)
            };
            self.clients.fetch_sub(1, Ordering::Relaxed);
            lock(&self.subscriptions).remove(&peer);
            let result = result.map_err(|error| match error.downcast_ref::<io::Error>() {
                // SO_RCVTIMEO in the middle of a line or of a payload.
                Some(io) if io.kind() == ErrorKind::WouldBlock => anyhow!("Stale Connection"),
                _ => error,
            });
            if let Some(error) = result.as_ref().err().filter(|error| !error.is::<io::Error>()) {
                peer.push(&[format!("-ERR '{error}'\r\n").as_bytes()]);
            }
            peer.close(); // pending output is still sent
            result
        })
    }

    /// Handles the lines of a client until it disconnects or sends an invalid line.
    fn handle_lines(&self, peer: &Arc<Peer>) -> anyhow::Result<()> {
        let mut input = BufReader::new(peer.stream());
        let mut options = Options::default();
        let mut pings = 0;
        loop {
            match input.fill_buf() {
                // SO_RCVTIMEO: the client was silent.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(pings < MAX_PINGS, "Stale Connection");
                    pings += 1;
                    peer.push(&[b"PING\r\n"]);
                    continue;
                }
                _ => pings = 0, // if this is an error, `read_line` returns it
            }
            let line = read_line(&mut input, nats::MAX_LINE).map_err(|error| {
                if error.is::<LineTooLong>() {
                    anyhow!("maximum control line exceeded")
                } else {
                    error
                }
            });
            let Some(line) = line? else { return Ok(()) };
            let is_acknowledged = match nats::parse(&line)? {
                Op::Ping => {
                    peer.push(&[b"PONG\r\n"]);
                    false
                }
                Op::Pong | Op::Ok | Op::Info(_) => false,
                Op::Connect(json) => options.update(json).map(|()| true)?,
                Op::Sub { subject, .. } if !nats::is_pattern(subject) => {
                    peer.push(&[b"-ERR 'Invalid Subject'\r\n"]);
                    false
                }
                Op::Sub { subject, queue, sid } => {
                    lock(&self.subscriptions).add(peer, sid, subject, queue)?; // (1)
                    true
                }
                Op::Unsub { sid, max } => {
                    lock(&self.subscriptions).end(peer, sid, max.unwrap_or(0));
                    true
                }
                Op::Pub { subject, reply, size } => {
                    if options.pedantic && !nats::is_subject(subject) {
                        peer.push(&[b"-ERR 'Invalid Publish Subject'\r\n"]);
                    }
                    let payload = nats::read_payload(&mut input, size, nats::MAX_PAYLOAD)?; // (2)
                    if options.verbose {
                        peer.push(&[b"+OK\r\n"]); // before the message, which may be for `peer` itself
                    }
                    let except = (!options.echo).then_some(peer);
                    self.publish(subject, reply, &payload, except);
                    false
                }
                Op::Msg { .. } | Op::Err(_) => bail!("Unknown Protocol Operation"),
            };
            if options.verbose && is_acknowledged {
                peer.push(&[b"+OK\r\n"]);
            }
            peer.wait_for_room();
        }
    }

    fn publish(
        &self,
        subject: &str,
        reply: Option<&str>,
        payload: &[u8],
        except: Option<&Arc<Peer>>,
    ) {
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let size = payload.len();
        // The lock is held until the message is in all outboxes. So all clients get the messages in
        // the same order.
        let mut subscriptions = lock(&self.subscriptions);
        let receivers = subscriptions.route(subject, except);
        for (receiver, sid) in &receivers {
            let head = format!("MSG {subject} {sid} {reply}{size}\r\n");
            receiver.push(&[head.as_bytes(), payload, b"\r\n"]); // (3)
        }
        drop(subscriptions);
        for (receiver, _) in &receivers {
            receiver.wait_for_room(); // (5)
        }
    }
}

fn demonstrate() -> anyhow::Result<()> {
    let mut broker = Process::server("broker", &["serve", "127.0.0.1:0"])?;
    let addr = broker.addr.clone();
    let follow = |name, args: &[&str]| -> anyhow::Result<Process> {
        let process = Process::client(name, args)?;
        process.expect("subscribed").map(|_| process)
    };
    let publish = |subject, text| nats::publish(&addr, subject, text);
    let fan = follow("fan", &["subscribe", &addr, "sport.>"])?;
    let worker = |name| follow(name, &["subscribe", &addr, "jobs", "workers"]);
    let workers = [worker("worker 1")?, worker("worker 2")?];
    println!("--- a message goes to each subscriber, a job to one of the workers");
    publish("sport.chess", "draw")?;
    publish("sport.tennis.doubles", "6:4")?;
    ["first", "second", "third"].iter().try_for_each(|text| publish("jobs", text))?;
    println!("--- a request, and its reply on a subject of its own");
    let clock = follow("clock", &["respond", &addr, "time", "noon"])?;
    Process::client("client", &["request", &addr, "time", ""])?.wait()?;
    println!("--- the broker is killed, and another takes its place");
    broker.kill()?;
    broker = Process::server("broker", &["serve", &addr])?;
    fan.expect("subscribed")?;
    publish("sport.chess", "mate")?;
    fan.expect("mate")?;
    drop((fan, workers, clock)); // before the broker: they would report its loss
    broker.kill().map(drop)
}
