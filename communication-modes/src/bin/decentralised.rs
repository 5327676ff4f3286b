//! Decentralized: there is no broker and no list of servers. Each node keeps its own list of the
//! other nodes, and calls them directly.
//!
//! ```text
//!      node 7403                node 7401                node 7402
//!  (1) announce ──────────────▶                          (in the list of 7401)
//!                      ◀─────── (2) members: 7401, 7402
//!                               (3) 7403 joined ────────▶
//!  (4) ping ──────────────────▶ ack
//!      ping ───────────────────── ✕ killed
//!      ping 7401 for me ───────────────────────────────▶ ping ✕
//!  (5) 7401 is suspect, 7401 is down ──────────────────▶
//!  (6) "say hello" ────────────────────────────────────▶ "7402 says olleh"
//! ```
//!
//! How a node takes part: (1) Each node except the first is started with the address of another
//! node, the seed. It announces itself to the seed until the seed answers. (2) The answer lists the
//! members. (3) The nodes tell each other about the new member: this is gossip. (4) Every half
//! second, each node pings one other node. If that node does not answer, others are asked to ping
//! it too. (5) If it does not answer them either, it is suspect. If it does not object within 1.5
//! s, all nodes regard it as down. This is the SWIM protocol, which the library foca implements
//! without I/O. The socket and the timers are in `communication-modes/src/gossip.rs`. (6) A call
//! goes directly to the node that is called, over TCP.
//!
//! The catch: a node that was restarted, or was declared down by mistake, comes back under the same
//! address. The others must see that its new messages are newer than the report that it is down.
//! The wall clock cannot order the two, because it can be set back. A counter does: see `Node` in
//! `communication-modes/src/gossip/node.rs`.
//!
//! Run: `cargo run -p communication-modes --bin decentralised`, or as separate processes:
//!
//! ```text
//! $ cargo run -p communication-modes --bin decentralised node 127.0.0.1:7401
//! $ cargo run -p communication-modes --bin decentralised node 127.0.0.1:7402 127.0.0.1:7401
//! $ cargo run -p communication-modes --bin decentralised node 127.0.0.1:7403 127.0.0.1:7401
//! $ cargo run -p communication-modes --bin decentralised ask 127.0.0.1:7403 members
//! 127.0.0.1:7401 127.0.0.1:7402 127.0.0.1:7403
//! ```
//!
//! Use it when: any node can do the work, and the failure of any one of them must not stop the
//! others.
//! Limits: a change reaches all nodes after a while, not at once. If the network splits, both parts
//! continue. The nodes do not authenticate each other, so the network must be trusted. Next: Serf
//! or Consul (the same protocol); etcd or `ZooKeeper` if all nodes must agree.
//! Compare with: `communication-modes/src/bin/intermediary.rs` (one program knows all the others).

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use common::{announce, bind_udp, listen, lock, stop_flag};
use communication_modes::{
    DeadlineStream, END_OF_ANSWER, Gossip, MAX_CONNECTIONS, Misuse, Process, ask, printable,
    read_question, resolve, run_roles, serve,
};

const USAGE: &str = "\
Usage: decentralised                       run a demonstration
       decentralised node ADDR [SEED...]   run a node; a SEED is any other node
       decentralised ask ADDR QUESTION     ask a node: members; say TEXT; or
                                           all TEXT, to be said by all members
";
/// How long a node waits for a question, and for the answer of another node.
const NODE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the role `ask` waits. A node that is asked for `all` calls one member after the other.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts to find a port that is free for both TCP and UDP.
const PORT_ATTEMPTS: usize = 20;

fn main() -> ExitCode {
    run_roles(USAGE, |args| match args {
        [] => demonstrate(),
        ["node", addr, seeds @ ..] => run_node(addr, seeds),
        ["ask", addr, question @ ..] if !question.is_empty() => {
            let answer = ask(addr, &question.join(" "), ASK_TIMEOUT);
            let answer = answer.with_context(|| format!("no answer from {addr}"))?;
            let lines: String = answer.lines().map(|line| printable(line) + "\n").collect();
            Ok(io::stdout().write_all(lines.as_bytes())?)
        }
        _ => bail!(Misuse),
    })
}

fn run_node(addr: &str, seeds: &[&str]) -> anyhow::Result<()> {
    let seeds: Vec<_> =
        seeds.iter().map(|seed| resolve(seed)).collect::<anyhow::Result<Vec<_>>>()?.concat();
    let (listener, socket) = bind(addr)?;
    let addr = listener.local_addr()?;
    ensure!(!addr.ip().is_unspecified(), "{addr} is not an address that others can call");
    let stop = stop_flag()?;
    let mut gossip = Gossip::new(socket, addr);
    let members = gossip.members();
    thread::Builder::new().spawn(move || {
        serve(&listener, MAX_CONNECTIONS, move |stream| answer(stream, addr, &members))
    })?;
    announce(addr);
    gossip.run(&seeds, &stop)
}

/// Binds a TCP and a UDP socket to the same address. With port 0 the kernel picks a port that is
/// free for TCP. Another program may use it for UDP, so several ports are tried.
fn bind(addr: &str) -> anyhow::Result<(TcpListener, UdpSocket)> {
    let mut attempts = if addr.ends_with(":0") { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let listener = listen(addr)?;
        match bind_udp(&listener.local_addr()?.to_string()).context("UDP") {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// Answers one question.
fn answer(
    stream: &TcpStream,
    me: SocketAddr,
    members: &Mutex<Vec<SocketAddr>>,
) -> anyhow::Result<()> {
    let question = read_question(stream, NODE_TIMEOUT)?;
    let members = || lock(members).clone();
    let answer = match question.split_once(' ').unwrap_or((&question, "")) {
        ("say", text) => format!("{me} says {}\n", text.chars().rev().collect::<String>()),
        ("members", "") => {
            let addrs: Vec<_> = members().iter().map(SocketAddr::to_string).collect();
            addrs.join(" ") + "\n"
        }
        ("all", text) => {
            let call = |node: SocketAddr| {
                let answer = ask(&node.to_string(), &format!("say {text}"), NODE_TIMEOUT);
                // (6) A member can be dead although it is still in the list. The call shows it.
                answer.unwrap_or_else(|error| format!("{node} does not answer: {error}\n"))
            };
            members().into_iter().map(call).collect()
        }
        _ => "? members, say TEXT or all TEXT\n".to_owned(),
    };
    let mut stream = DeadlineStream::new(stream, Instant::now() + NODE_TIMEOUT);
    Ok(stream.write_all((answer + END_OF_ANSWER).as_bytes())?)
}

fn demonstrate() -> anyhow::Result<()> {
    println!("--- at the start, b knows a, and c knows b");
    let mut a = Process::server("a", &["node", "127.0.0.1:0"])?;
    let b = Process::server("b", &["node", "127.0.0.1:0", &a.addr])?;
    let c = Process::server("c", &["node", "127.0.0.1:0", &b.addr])?;
    let learns = |node: &Process, other: &str, what| node.expect(&format!("{other} {what}"));
    learns(&a, &c.addr, "joined")?;
    learns(&c, &a.addr, "joined")?;
    let all_hello = |node: &Process| ask(&node.addr, "all hello", ASK_TIMEOUT);
    print!("{}", all_hello(&c)?);
    println!("--- a is killed: a call fails at once, and soon the other nodes remove a");
    a.kill()?;
    print!("{}", all_hello(&c)?);
    learns(&b, &a.addr, "left")?;
    learns(&c, &a.addr, "left")?;
    println!("--- d joins through c");
    let d = Process::server("d", &["node", "127.0.0.1:0", &c.addr])?;
    learns(&b, &d.addr, "joined")?;
    learns(&d, &b.addr, "joined")?;
    all_hello(&d).map(|text| print!("{text}")).context("d does not answer")
}
