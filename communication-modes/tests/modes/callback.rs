//! `callback`: the caller against servers that answer late, twice, wrongly or not at all.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;

use crate::support::{Door, Peer, Shut, fails, run, server, start, text, trials};

pub fn trials() -> Vec<Trial> {
    trials!("callback":
        any_order late_is_not_an_answer answers_nobody_asked_for death_with_requests_under_way
        asked_after_the_loss a_killed_server nonsense_ends_it too_many_at_once nobody_there the_server_works_on_many
        the_server_answers_all_after_a_fin who_does_not_read_waits_alone
    )
}

/// Runs the caller with `requests` against a server that does `serve`; what it showed.
fn call(
    requests: &[&str],
    serve: impl FnOnce(Peer) -> Result<()> + Send + 'static,
) -> Result<(Option<i32>, String)> {
    let door = Door::open()?;
    let addr = door.addr.clone();
    let args = [&["call", &addr], requests].concat();
    let server = thread::spawn(move || serve(door.accept()?));
    let output = run("callback", &args)?;
    server.join().map_err(|_| anyhow!("the server panicked"))??;
    Ok((output.status.code(), text(&output.stdout)))
}

/// Checks that `parts` come in this order.
fn in_order(shown: &str, parts: &[&str]) -> Result<()> {
    let mut rest = shown;
    for part in parts {
        let at = rest
            .find(part)
            .ok_or_else(|| anyhow!("{part:?} is not there, or not in order: {shown}"))?;
        rest = &rest[at + part.len()..];
    }
    Ok(())
}

fn any_order() -> Result<()> {
    let (status, shown) = call(&["1:a", "1:b", "1:c"], |mut peer| {
        peer.lines(&["1 1 a", "2 1 b", "3 1 c"])?;
        peer.send("3 cc\n1 aa\n2 bb\n")?;
        peer.is_over()
    })?;
    ensure!(status == Some(0), "{shown}");
    in_order(&shown, &["answer to 3: cc", "answer to 1: aa", "answer to 2: bb"])
}

fn late_is_not_an_answer() -> Result<()> {
    let door = Door::open()?;
    let mut caller = start("callback", &["call", &door.addr, "1:a"])?;
    let mut peer = door.accept()?;
    peer.lines(&["1 1 a"])?;
    caller.expect("no answer to 1: timed out")?;
    peer.send("1 late\n")?;
    caller.expect("nobody waits for \"1 late\"")?;
    ensure!(caller.wait()?.code() == Some(1));
    Ok(())
}

fn answers_nobody_asked_for() -> Result<()> {
    let (status, shown) = call(&["1:a", "1:b"], |mut peer| {
        peer.lines(&["1 1 a", "2 1 b"])?;
        peer.send("99 x\nhello x\n1 aa\n1 again\n2 bb\n")?;
        peer.is_over()
    })?;
    ensure!(status == Some(0), "{shown}");
    in_order(
        &shown,
        &[
            "nobody waits for \"99 x\"",
            "nobody waits for \"hello x\"",
            "answer to 1: aa",
            "nobody waits for \"1 again\"",
            "answer to 2: bb",
        ],
    )
}

fn death_with_requests_under_way() -> Result<()> {
    for reset in [false, true] {
        let (status, shown) = call(&["1:a", "1:b", "1:c"], move |mut peer| {
            peer.lines(&["1 1 a", "2 1 b", "3 1 c"])?;
            peer.send("2 bb\n")?;
            if reset { peer.reset() } else { Ok(()) }
        })?;
        ensure!(status == Some(1), "{shown}");
        // After a reset, what had come before it may be lost.
        let parts: &[&str] = if reset { &[] } else { &["answer to 2: bb"] };
        in_order(&shown, parts)?;
        in_order(&shown, &["no answer to 1: ", "no answer to 3: "])?;
        ensure!(shown.matches("answer to").count() == 3, "{shown}");
    }
    Ok(())
}

/// Who asks after the loss is told of it, and does not wait for a time-out.
fn asked_after_the_loss() -> Result<()> {
    let requests = vec!["1:a"; 64];
    let (status, shown) = call(&requests, |mut peer| {
        peer.lines(&["1 1 a"])?;
        peer.reset()
    })?;
    ensure!(status == Some(1) && shown.matches("no answer to").count() == 64, "{shown}");
    ensure!(!shown.contains("timed out"), "{shown}");
    Ok(())
}

fn a_killed_server() -> Result<()> {
    let mut server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut caller = start("callback", &["call", &server.addr, "2000:a", "1:b", "2000:c"])?;
    caller.expect("answer to 2: b")?;
    server.kill()?;
    caller.expect("no answer to 1: ")?;
    caller.expect("no answer to 3: ")?;
    ensure!(caller.wait()?.code() == Some(1));
    Ok(())
}

fn nonsense_ends_it() -> Result<()> {
    let endless = "x".repeat(100_000);
    for (nonsense, part) in [("nonsense\n", "\"nonsense\" is no answer"), (&endless, "longer than")]
    {
        let nonsense = nonsense.to_owned();
        let (status, shown) = call(&["1:a", "1:b"], move |mut peer| {
            peer.lines(&["1 1 a", "2 1 b"])?;
            let _ = peer.send(nonsense);
            peer.is_over()
        })?;
        ensure!(status == Some(1), "{shown}");
        in_order(&shown, &["no answer to 1: ", part, "no answer to 2: ", part])?;
    }
    Ok(())
}

/// The table is bounded: who asks for more is told at once.
fn too_many_at_once() -> Result<()> {
    let door = Door::open()?;
    let mut caller = start("callback", &[&["call", &door.addr][..], &["1:a"; 70]].concat())?;
    let mut peer = door.accept()?;
    for id in 65..=70 {
        caller.expect(&format!("no answer to {id}: quota exceeded"))?;
    }
    for id in 1..=64 {
        peer.lines(&[&format!("{id} 1 a")])?;
    }
    for id in 1..=64 {
        peer.send(format!("{id} b\n"))?;
        caller.expect(&format!("answer to {id}: b"))?;
    }
    ensure!(caller.wait()?.code() == Some(1));
    Ok(())
}

fn nobody_there() -> Result<()> {
    let shut = Shut::new()?;
    fails(
        &run("callback", &["call", &shut.addr, "1:a"])?,
        1,
        &format!("cannot call {}", shut.addr),
    )?;
    fails(&run("callback", &["call", "nowhere", "1:a"])?, 1, "cannot call nowhere")
}

fn the_server_works_on_many() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("1 1500 slow\n2 1 quick\n")?;
    peer.lines(&["2 kciuq", "1 wols"])?;
    // More than may be under way: the rest waits, and none is lost.
    for id in 0..300 {
        peer.send(format!("{id} 1 äbc\n"))?;
    }
    let mut ids = Vec::new();
    for _ in 0..300 {
        let line = peer.line()?;
        let (id, text) = line.split_once(' ').unwrap_or_default();
        ensure!(text == "cbä", "{line}");
        ids.push(id.parse::<u64>()?);
    }
    ids.sort_unstable();
    ensure!(ids.into_iter().eq(0..300));
    Ok(())
}

fn the_server_answers_all_after_a_fin() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut peer = Peer::connect(&server.addr)?;
    peer.send("1 1500 a\n2 800 b\n3 1 c")?;
    peer.finish()?;
    peer.lines(&["3 c", "2 b", "1 a"])?;
    ensure!(peer.rest()?.is_empty());
    Ok(())
}

fn who_does_not_read_waits_alone() -> Result<()> {
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let mut deaf = Peer::connect(&server.addr)?;
    let request = format!("1 0 {}\n", "x".repeat(4000));
    deaf.stream().set_write_timeout(Some(std::time::Duration::from_millis(300)))?;
    let mut sent = 0;
    while deaf.send(&request).is_ok() {
        sent += request.len();
        ensure!(sent < 64 << 20, "it takes without end from a peer that does not read");
    }
    let mut other = Peer::connect(&server.addr)?;
    other.send("1 1 abc\n")?;
    other.lines(&["1 cba"])
}
