//! `decentralised`: nodes that join, leave, die, sleep, and receive invalid datagrams and questions.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use communication_modes::{Process, ask};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::peer::{ClosedPort, Listener};
use crate::support::{TIMEOUT, fails, join, run, server, start, succeeds, text, trials, until};

pub fn trials() -> Vec<Trial> {
    trials!("decentralised":
        all_nodes_find_each_other any_node_can_die a_node_that_leaves_says_so
        a_seed_that_starts_later a_silent_seed_is_reported a_node_that_is_restarted
        a_node_that_slept invalid_datagrams questions invalid_questions
        an_answer_that_is_cut_off text_is_escaped addresses_that_do_not_work
    )
}

/// Starts a node.
pub fn node(seeds: &[&Process]) -> Result<Process> {
    let mut args = vec!["node", "127.0.0.1:0"];
    args.extend(seeds.iter().map(|seed| &seed.addr[..]));
    server("decentralised", &args)
}

/// Waits until each of `nodes` knows these nodes and no others.
pub fn all_know_all(nodes: &[&Process]) -> Result<()> {
    let addrs = nodes.iter().map(|node| Ok(node.addr.parse()?));
    let mut addrs = addrs.collect::<Result<Vec<SocketAddr>>>()?;
    addrs.sort_unstable();
    let all: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    for node in nodes {
        let what = format!("{} knows {all:?}", node.addr);
        until(&what, || Ok(ask(&node.addr, "members", TIMEOUT)?.split_whitespace().eq(&all)))?;
    }
    Ok(())
}

/// Calls all nodes through each of `nodes`.
fn all_answer(nodes: &[&Process]) -> Result<()> {
    for node in nodes {
        // On a busy machine a node may need longer than the others wait for it.
        until(&format!("all answer through {}", node.addr), || {
            let answers = ask(&node.addr, "all abc", TIMEOUT)?;
            Ok(answers.matches(" says cba\n").count() == nodes.len())
        })?;
    }
    Ok(())
}

/// Each node knows only one other at its start. The last joins through a node that is neither the
/// first nor the seed of its seed.
fn all_nodes_find_each_other() -> Result<()> {
    let first = node(&[])?;
    let second = node(&[&first])?;
    let third = node(&[&second])?;
    let fourth = node(&[&first])?;
    all_know_all(&[&first, &second, &third, &fourth])?;
    let fifth = node(&[&third])?;
    all_know_all(&[&first, &second, &third, &fourth, &fifth])?;
    all_answer(&[&first, &second, &third, &fourth, &fifth])
}

fn any_node_can_die() -> Result<()> {
    let mut a = node(&[])?;
    let mut b = node(&[&a])?;
    let c = node(&[&b])?;
    all_know_all(&[&a, &b, &c])?;
    a.kill()?;
    let answers = ask(&c.addr, "all abc", TIMEOUT)?;
    ensure!(answers.contains(&format!("{} does not answer: ", a.addr)), "{answers}");
    b.expect(&format!("{} left", a.addr))?;
    c.expect(&format!("{} left", a.addr))?;
    all_know_all(&[&b, &c])?;
    all_answer(&[&b, &c])?;
    // The node through which c joined can die, too, and new nodes still join.
    b.kill()?;
    let d = node(&[&c])?;
    all_know_all(&[&c, &d])?;
    all_answer(&[&c, &d])
}

fn a_node_that_leaves_says_so() -> Result<()> {
    let a = node(&[])?;
    let mut b = node(&[&a])?;
    let mut c = node(&[&a])?;
    all_know_all(&[&a, &b, &c])?;
    c.kill()?;
    b.signal(Signal::SIGTERM)?;
    ensure!(b.wait()?.success());
    // c was killed, so a must find out by pings, which takes 3 s. b has reported its end, so a knows
    // of it earlier, although b ended later.
    a.expect(&format!("{} left", b.addr))?;
    ensure!(!a.has(&format!("{} left", c.addr)), "b did not report its end");
    a.expect(&format!("{} left", c.addr)).map(drop)
}

fn a_seed_that_starts_later() -> Result<()> {
    let closed = ClosedPort::new()?;
    let b = server("decentralised", &["node", "127.0.0.1:0", &closed.addr])?;
    let a = server("decentralised", &["node", &closed.addr])?;
    all_know_all(&[&a, &b])
}

fn a_silent_seed_is_reported() -> Result<()> {
    let closed = ClosedPort::new()?;
    let a = server("decentralised", &["node", "127.0.0.1:0", &closed.addr])?;
    a.expect(&format!("no answer from [{}]", closed.addr))?;
    let b = server("decentralised", &["node", &closed.addr])?;
    all_know_all(&[&a, &b])
}

fn a_node_that_is_restarted() -> Result<()> {
    // The port stays reserved while the node is dead.
    let closed = ClosedPort::new()?;
    let mut a = server("decentralised", &["node", &closed.addr])?;
    let b = node(&[&a])?;
    all_know_all(&[&a, &b])?;
    // Restarted before and after the others have noticed its end. They must accept each new start as
    // newer than the one before.
    for is_noticed in [false, true, true, false, true, false, false] {
        a.kill()?;
        if is_noticed {
            b.expect(&format!("{} left", a.addr))?;
        }
        a = server("decentralised", &["node", &a.addr, &b.addr])?;
        all_know_all(&[&a, &b])?;
        all_answer(&[&a, &b])?;
    }
    Ok(())
}

fn a_node_that_slept() -> Result<()> {
    let a = node(&[])?;
    let b = node(&[&a])?;
    let c = node(&[&a])?;
    all_know_all(&[&a, &b, &c])?;
    a.signal(Signal::SIGSTOP)?;
    b.expect(&format!("{} left", a.addr))?;
    c.expect(&format!("{} left", a.addr))?;
    a.signal(Signal::SIGCONT)?;
    all_know_all(&[&a, &b, &c])?;
    all_answer(&[&a, &b, &c])
}

fn invalid_datagrams() -> Result<()> {
    let (a, socket) = (node(&[])?, UdpSocket::bind("127.0.0.1:0")?);
    let b = node(&[&a])?;
    all_know_all(&[&a, &b])?;
    let mut state = 1_u32;
    for length in (0..1500).chain([60_000]) {
        let noise = (0..length).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        socket.send_to(&noise.collect::<Vec<_>>(), &a.addr)?;
    }
    all_know_all(&[&a, &b])?;
    let c = node(&[&a])?;
    all_know_all(&[&a, &b, &c])?;
    all_answer(&[&a, &b, &c])
}

fn questions() -> Result<()> {
    let a = node(&[])?;
    let ask = |question: &[&str]| -> Result<String> {
        succeeds(&run("decentralised", &[&["ask", &a.addr], question].concat())?)
    };
    ensure!(ask(&["say", "hello", "world"])? == format!("{} says dlrow olleh\n", a.addr));
    ensure!(ask(&["members"])? == format!("{}\n", a.addr));
    ensure!(ask(&["all", "all x"])? == format!("{} says x lla\n", a.addr));
    ensure!(ask(&["what"])?.starts_with("? "));
    let closed = ClosedPort::new()?;
    let part = format!("no answer from {}: Connection refused", closed.addr);
    fails(&run("decentralised", &["ask", &closed.addr, "members"])?, 1, &part)
}

/// A question is one line: a line break in an argument must not ask two.
fn invalid_questions() -> Result<()> {
    let closed = ClosedPort::new()?;
    let output = run("decentralised", &["ask", &closed.addr, "say a\nmembers"])?;
    fails(&output, 1, "the question \"say a\\nmembers\"")?;
    // A question that is cut off is not answered.
    let a = node(&[])?;
    let mut peer = crate::peer::Peer::connect(&a.addr)?;
    peer.send("say half a quest")?;
    peer.finish()?;
    ensure!(peer.rest()?.is_empty());
    a.expect("in the middle of a line").map(drop)
}

/// The first of two lines can look like a complete answer.
fn an_answer_that_is_cut_off() -> Result<()> {
    for answer in ["", "127.0.0.1:1 says x", "127.0.0.1:1 says x\n"] {
        let listener = Listener::new()?;
        let addr = listener.addr.clone();
        let server = listener.serve(move |mut peer| {
            peer.lines(&["all x"])?;
            peer.send(answer)
        });
        let output = run("decentralised", &["ask", &addr, "all", "x"])?;
        fails(&output, 1, "the answer is incomplete")?;
        join(server)?;
    }
    Ok(())
}

/// A node must not be able to write to the terminal of the user.
fn text_is_escaped() -> Result<()> {
    let a = node(&[])?;
    let mut peer = crate::peer::Peer::connect(&a.addr)?;
    peer.send("say \x07x;0]\x1b\n")?;
    ensure!(text(&peer.rest()?) == format!("{} says \x1b]0;x\x07\n\n", a.addr));
    let listener = Listener::new()?;
    let addr = listener.addr.clone();
    let server = listener.serve(|mut peer| {
        peer.line()?;
        peer.send("\x1b]0;x\x07\n\n")
    });
    let printed = succeeds(&run("decentralised", &["ask", &addr, "members"])?)?;
    ensure!(printed == "\\u{1b}]0;x\\u{7}\n", "{printed:?}");
    join(server)
}

fn addresses_that_do_not_work() -> Result<()> {
    let any = run("decentralised", &["node", "0.0.0.0:0"])?;
    fails(&any, 1, "is not an address that others can call")?;
    fails(&run("decentralised", &["node", "127.0.0.1:0", "nowhere"])?, 1, "\"nowhere\"")?;
    // The node says that it listens when both its sockets are bound, and not before.
    let closed = ClosedPort::new()?;
    let _socket = UdpSocket::bind(&closed.addr)?;
    let mut node = start("decentralised", &["node", &closed.addr])?;
    node.expect("UDP")?;
    ensure!(node.wait()?.code() == Some(1) && !node.has("listening"));
    Ok(())
}
