//! Decentralised: no bus in the middle and no list of servers; the nodes tell each other who is
//! there, and call each other straight.
//!
//! ```text
//!      node 7303                node 7301                node 7302
//!  (1) announce ──────────────▶                          (knows 7301 already)
//!                      ◀─────── (2) here are 7301, 7302
//!                               (3) 7303 is here ──────▶
//!  (4) ping ──────────────────▶ ack
//!      ping ───────────────────── ✕ killed
//!      ping 7301 for me ───────────────────────────────▶ ping ✕
//!  (5) 7301 is suspect, 7301 is down ──────────────────▶
//!  (6) "say hello" ────────────────────────────────────▶ "7302 says olleh"
//! ```
//!
//! A node: (1) announces itself to one that it knows, until it knows others; (2) learns of the
//! rest, (3) and they of it, by gossip; (4) it pings one other each half second, and lets others
//! ping it too before it suspects it; (5) a suspect that does not object is down, for all. That is
//! the SWIM protocol: the library foca decides, this loop is its socket and its clock. (6) A call.
//!
//! Run: `cargo run -p communication-modes --bin decentralised`, or as separate processes:
//!
//! ```text
//! $ cargo run -p communication-modes --bin decentralised node 127.0.0.1:7301
//! $ cargo run -p communication-modes --bin decentralised node 127.0.0.1:7302 127.0.0.1:7301
//! $ cargo run -p communication-modes --bin decentralised node 127.0.0.1:7303 127.0.0.1:7302
//! $ cargo run -p communication-modes --bin decentralised ask 127.0.0.1:7303 members
//! 127.0.0.1:7301 127.0.0.1:7302 127.0.0.1:7303
//! ```
//!
//! Use it when: nothing may be the one part that all depend on, and any node can do the work.
//! Limits: the nodes agree in the end, not at any moment, and of a network that is split both parts
//! go on. Nobody is asked who they are: for a network of friends. Next: Serf or Consul (the same
//! protocol); etcd or `ZooKeeper` where all must agree.
//! Compare with: `communication-modes/src/bin/intermediary.rs` (one part knows all the others).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use common::{Misuse, announce, listen, lock, run_roles, stop_flag};
use communication_modes::{CONNECTIONS, Process, Timed, ask, read_line, resolve, serve};
use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, OwnedNotification,
    PeriodicParams, PostcardCodec, Timer,
};
use log::info;
use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

const USAGE: &str = "\
Usage: decentralised                       a demonstration
       decentralised node ADDR [SEED...]   a node; SEED is any node that is there already
       decentralised ask ADDR QUESTION     members; say TEXT; all TEXT, which asks all members
";
/// How long a node waits for a question and for another's answer, and who asks one for all of them.
const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(10);
/// Bytes of a question.
const LINE: usize = 1024;
/// The longest wait for a datagram: then SIGTERM is looked for.
const TICK: Duration = Duration::from_millis(100);

/// A node, in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    /// Of its UDP socket, and of its TCP socket too.
    addr: SocketAddr,
    /// Nanoseconds since 1970: of two lives at one address the later counts.
    since: u64,
}

impl Identity for Node {
    type Addr = SocketAddr;

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Who has been declared down by mistake comes back as one that has just started.
    fn renew(&self) -> Option<Self> {
        Some(Self { addr: self.addr, since: self.since + 1 })
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.since > other.since
    }
}

struct Gossip {
    foca: Foca<Node, PostcardCodec, SmallRng, NoCustomBroadcast>,
    /// What foca wants done: datagrams to send, timers to set, news of the members.
    todo: AccumulatingRuntime<Node>,
    timers: BinaryHeap<Reverse<(Instant, Timer<Node>)>>,
    socket: UdpSocket,
    /// All that are there, this node included, in order.
    members: Arc<Mutex<Vec<SocketAddr>>>,
}

fn main() -> ExitCode {
    run_roles(USAGE, |args| match args {
        [] => demonstrate(),
        ["node", addr, seeds @ ..] => be_node(addr, seeds),
        ["ask", addr, question @ ..] if !question.is_empty() => {
            let answer = ask(addr, &question.join(" "), LONG);
            let answer = answer.with_context(|| format!("no answer from {addr}"))?;
            Ok(io::stdout().write_all(answer.as_bytes())?)
        }
        _ => bail!(Misuse),
    })
}

fn be_node(addr: &str, seeds: &[&str]) -> anyhow::Result<()> {
    let seeds = seeds.iter().map(|seed| resolve(seed)).collect::<anyhow::Result<Vec<_>>>()?;
    let stop = stop_flag()?;
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    let addr = listener.local_addr()?;
    ensure!(!addr.ip().is_unspecified(), "{addr} is no address that others can call");
    let socket = UdpSocket::bind(addr).with_context(|| format!("cannot use UDP on {addr}"))?;
    let members = Arc::new(Mutex::new(vec![addr]));
    let known = Arc::clone(&members);
    thread::Builder::new()
        .spawn(move || serve(&listener, CONNECTIONS, move |stream| answer(stream, addr, &known)))?;

    let since = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    let (node, random) = (Node { addr, since }, SmallRng::seed_from_u64(since));
    let foca = Foca::new(node, config(), random, PostcardCodec);
    let (todo, timers) = <_>::default();
    Gossip { foca, todo, timers, socket, members }.go_on(&seeds, &stop)
}

/// For a small network, quicker than foca's own for a LAN: who is dead is down after 3 s.
fn config() -> Config {
    let (frequency, num_members) = (Duration::from_secs(2), NonZero::<usize>::MIN);
    Config {
        probe_period: Duration::from_millis(500),
        probe_rtt: Duration::from_millis(200),
        suspect_to_down_after: Duration::from_millis(1500),
        max_transmissions: Config::simple().max_transmissions,
        // The parts of a network that was split find each other again.
        periodic_announce_to_down_members: Some(PeriodicParams { frequency, num_members }),
        ..Config::new_lan(NonZero::<u32>::MIN)
    }
}

impl Gossip {
    /// Waits for the next datagram or timer, whichever is first, and tells foca.
    fn go_on(&mut self, seeds: &[SocketAddr], stop: &AtomicBool) -> anyhow::Result<()> {
        let mut buffer = [0; 2048]; // More than foca ever sends: 1400.
        let mut announce = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if self.foca.num_members() == 0 && now >= announce {
                announce = now + 5 * TICK;
                for &addr in seeds {
                    let _ = self.foca.announce(Node { addr, since: 0 }, &mut self.todo); // (1)
                }
            }
            while self.timers.peek().is_some_and(|Reverse((due, _))| *due <= now) {
                let Some(Reverse((_, timer))) = self.timers.pop() else { break };
                // (4), (5): it may be late, and says so in an error; nothing to be done.
                let _ = self.foca.handle_timer(timer, &mut self.todo);
            }
            self.do_what_is_to_do(now);

            let due = self.timers.peek().map_or(TICK, |Reverse((due, _))| *due - now);
            self.socket.set_read_timeout(Some(due.clamp(Duration::from_millis(1), TICK)))?;
            // An error is a time-out, a signal, or memory that is short: the loop goes round.
            if let Ok((count, _)) = self.socket.recv_from(&mut buffer) {
                // (2), (3): anybody can send us anything; what makes no sense is dropped.
                let _ = self.foca.handle_data(&buffer[..count], &mut self.todo);
            }
        }
        // The others need not find out by themselves.
        let _ = self.foca.leave_cluster(&mut self.todo);
        self.do_what_is_to_do(Instant::now());
        Ok(())
    }

    fn do_what_is_to_do(&mut self, now: Instant) {
        while let Some((to, data)) = self.todo.to_send() {
            let _ = self.socket.send_to(&data, to.addr); // Datagrams get lost anyway.
        }
        while let Some((after, timer)) = self.todo.to_schedule() {
            self.timers.push(Reverse((now + after, timer)));
        }
        while let Some(news) = self.todo.to_notify() {
            let others = self.foca.iter_members().map(|member| member.id().addr);
            let mut all: Vec<_> = others.chain([self.foca.identity().addr]).collect();
            all.sort_unstable();
            *lock(&self.members) = all;
            match news {
                OwnedNotification::MemberUp(node) => info!("{} is here", node.addr),
                OwnedNotification::MemberDown(node) => info!("{} is gone", node.addr),
                _ => {}
            }
        }
    }
}

/// Answers one question, in a thread of its own.
fn answer(stream: &TcpStream, me: SocketAddr, all: &Mutex<Vec<SocketAddr>>) -> anyhow::Result<()> {
    let timed = Timed::new(stream, Instant::now() + SHORT);
    let question = read_line(&mut BufReader::new(timed), LINE)?.unwrap_or_default();
    let answer = match question.split_once(' ').unwrap_or((&question, "")) {
        ("say", text) => format!("{me} says {}\n", text.chars().rev().collect::<String>()),
        ("members", "") => {
            let all: Vec<_> = lock(all).iter().map(SocketAddr::to_string).collect();
            all.join(" ") + "\n"
        }
        ("all", text) => {
            let all = lock(all).clone();
            let call = |node: &SocketAddr| ask(&node.to_string(), &format!("say {text}"), SHORT);
            // (6) A member may be dead and not known to be: then the call says so.
            let failed = |node, error| format!("{node} does not answer: {error}\n");
            all.iter().map(|node| call(node).unwrap_or_else(|error| failed(node, error))).collect()
        }
        _ => "? members, say TEXT or all TEXT\n".to_owned(),
    };
    Ok(Timed::new(stream, Instant::now() + SHORT).write_all(answer.as_bytes())?)
}

fn demonstrate() -> anyhow::Result<()> {
    println!("--- b knows a at its start, c knows b, and nobody knows all");
    let mut a = Process::server("a", &["node", "127.0.0.1:0"])?;
    let b = Process::server("b", &["node", "127.0.0.1:0", &a.addr])?;
    let c = Process::server("c", &["node", "127.0.0.1:0", &b.addr])?;
    let hears = |node: &Process, of: &str, what| node.expect(&format!("{of} is {what}"));
    hears(&a, &c.addr, "here")?;
    hears(&c, &a.addr, "here")?;
    let all_hello = |node: &Process| ask(&node.addr, "all hello", LONG);
    print!("{}", all_hello(&c)?);
    println!("--- a, the first, is killed; a call says it at once, the others know it soon");
    a.kill()?;
    print!("{}", all_hello(&c)?);
    hears(&b, &a.addr, "gone")?;
    hears(&c, &a.addr, "gone")?;
    println!("--- d joins through c");
    let d = Process::server("d", &["node", "127.0.0.1:0", &c.addr])?;
    hears(&b, &d.addr, "here")?;
    hears(&d, &b.addr, "here")?;
    all_hello(&d).map(|text| print!("{text}")).context("d is lost")
}
