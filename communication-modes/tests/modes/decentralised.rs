//! `decentralised`: nodes that come, go, die, sleep and are sent nonsense.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use communication_modes::{Process, ask};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{PATIENCE, Shut, fails, run, server, start, text, trials, until};

pub fn trials() -> Vec<Trial> {
    trials!("decentralised":
        all_find_all any_node_can_die who_leaves_says_so a_seed_that_comes_later
        who_comes_back_at_its_address who_slept_comes_back datagrams_without_sense
        questions an_address_for_others
    )
}

fn node(seeds: &[&Process]) -> Result<Process> {
    let mut args = vec!["node", "127.0.0.1:0"];
    args.extend(seeds.iter().map(|seed| &seed.addr[..]));
    server("decentralised", &args)
}

/// Waits until each of `nodes` knows these, and no others.
fn all_know_all(nodes: &[&Process]) -> Result<()> {
    let addrs = nodes.iter().map(|node| Ok(node.addr.parse()?));
    let mut addrs = addrs.collect::<Result<Vec<std::net::SocketAddr>>>()?;
    addrs.sort_unstable();
    let all: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    for node in nodes {
        let what = format!("{} knows {all:?}", node.addr);
        until(&what, || Ok(ask(&node.addr, "members", PATIENCE)?.split_whitespace().eq(&all)))?;
    }
    Ok(())
}

/// Calls all through each of `nodes`.
fn all_answer(nodes: &[&Process]) -> Result<()> {
    for node in nodes {
        let answers = ask(&node.addr, "all abc", PATIENCE)?;
        ensure!(answers.matches(" says cba\n").count() == nodes.len(), "{answers}");
    }
    Ok(())
}

fn signal(node: &Process, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(node.id() as i32), signal)?)
}

/// Each knows only one other at its start; the last joins through a node that is neither first
/// nor its neighbour's seed.
fn all_find_all() -> Result<()> {
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
    let answers = ask(&c.addr, "all abc", PATIENCE)?;
    ensure!(answers.contains(&format!("{} does not answer: ", a.addr)), "{answers}");
    b.expect(&format!("{} is gone", a.addr))?;
    c.expect(&format!("{} is gone", a.addr))?;
    all_know_all(&[&b, &c])?;
    all_answer(&[&b, &c])?;
    // The one that it joined through, too; and new ones come all the same.
    b.kill()?;
    let d = node(&[&c])?;
    all_know_all(&[&c, &d])?;
    all_answer(&[&c, &d])
}

fn who_leaves_says_so() -> Result<()> {
    let a = node(&[])?;
    let mut b = node(&[&a])?;
    let mut c = node(&[&a])?;
    all_know_all(&[&a, &b, &c])?;
    c.kill()?;
    signal(&b, Signal::SIGTERM)?;
    ensure!(b.wait()?.success());
    // Sooner than that one is missed who died before.
    a.expect(&format!("{} is gone", b.addr))?;
    ensure!(!a.has(&format!("{} is gone", c.addr)), "it was missed, and not heard");
    a.expect(&format!("{} is gone", c.addr)).map(drop)
}

fn a_seed_that_comes_later() -> Result<()> {
    let shut = Shut::new()?;
    let b = server("decentralised", &["node", "127.0.0.1:0", &shut.addr])?;
    let a = server("decentralised", &["node", &shut.addr])?;
    all_know_all(&[&a, &b])
}

fn who_comes_back_at_its_address() -> Result<()> {
    let mut a = node(&[])?;
    let b = node(&[&a])?;
    all_know_all(&[&a, &b])?;
    // Before anybody has noticed, and after.
    for noticed in [false, true] {
        a.kill()?;
        if noticed {
            b.expect(&format!("{} is gone", a.addr))?;
        }
        a = server("decentralised", &["node", &a.addr, &b.addr])?;
        all_know_all(&[&a, &b])?;
        all_answer(&[&a, &b])?;
    }
    Ok(())
}

fn who_slept_comes_back() -> Result<()> {
    let a = node(&[])?;
    let b = node(&[&a])?;
    let c = node(&[&a])?;
    all_know_all(&[&a, &b, &c])?;
    signal(&a, Signal::SIGSTOP)?;
    b.expect(&format!("{} is gone", a.addr))?;
    c.expect(&format!("{} is gone", a.addr))?;
    signal(&a, Signal::SIGCONT)?;
    all_know_all(&[&a, &b, &c])?;
    all_answer(&[&a, &b, &c])
}

fn datagrams_without_sense() -> Result<()> {
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
        let output = run("decentralised", &[&["ask", &a.addr], question].concat())?;
        ensure!(output.status.success(), "{output:?}");
        Ok(text(&output.stdout))
    };
    ensure!(ask(&["say", "hello", "world"])? == format!("{} says dlrow olleh\n", a.addr));
    ensure!(ask(&["members"])? == format!("{}\n", a.addr));
    ensure!(ask(&["all", "all x"])? == format!("{} says x lla\n", a.addr));
    ensure!(ask(&["what"])?.starts_with("? "));
    let shut = Shut::new()?;
    let part = format!("no answer from {}: Connection refused", shut.addr);
    fails(&run("decentralised", &["ask", &shut.addr, "members"])?, 1, &part)
}

fn an_address_for_others() -> Result<()> {
    let mut process = start("decentralised", &["node", "0.0.0.0:0"])?;
    process.expect("no address that others can call")?;
    ensure!(process.wait()?.code() == Some(1));
    fails(&run("decentralised", &["node", "127.0.0.1:0", "nowhere"])?, 1, "\"nowhere\"")
}
