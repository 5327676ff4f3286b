//! `callback`: the caller against servers that answer late, twice, invalidly or not at all.

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;

use crate::peer::{ClosedPort, Listener, Peer};
use crate::support::{fails, join, run, server, start, text, trials};

pub fn trials() -> Vec<Trial> {
    trials!("callback":
        answers_in_any_order a_late_answer answers_without_a_request loss_while_calls_wait
        an_answer_that_is_cut_off calls_after_the_loss a_killed_server invalid_answers
        too_many_calls no_server invalid_requests text_is_escaped
    )
}

/// Runs the caller with `requests` against a server that does `converse`. Returns the exit status and
/// what the caller printed.
fn call(
    requests: &[&str],
    converse: impl FnOnce(Peer) -> Result<()> + Send + 'static,
) -> Result<(Option<i32>, String)> {
    let listener = Listener::new()?;
    let addr = listener.addr.clone();
    let server = listener.serve(converse);
    let output = run("callback", &[&["call", &addr], requests].concat())?;
    join(server)?;
    Ok((output.status.code(), text(&output.stdout)))
}

/// Checks that `parts` occur in this order.
fn in_order(printed: &str, parts: &[&str]) -> Result<()> {
    let mut rest = printed;
    for part in parts {
        let start = rest
            .find(part)
            .ok_or_else(|| anyhow!("{part:?} is missing or not in order: {printed}"))?;
        rest = &rest[start + part.len()..];
    }
    Ok(())
}

fn answers_in_any_order() -> Result<()> {
    let (status, printed) = call(&["1:a", "1:b", "1:c"], |mut peer| {
        peer.lines(&["1 1 a", "2 1 b", "3 1 c"])?;
        peer.send("3 cc\n1 aa\n2 bb\n")?;
        peer.wait_closed()
    })?;
    ensure!(status == Some(0), "{printed}");
    in_order(&printed, &["answer to 3: cc", "answer to 1: aa", "answer to 2: bb"])
}

fn a_late_answer() -> Result<()> {
    let listener = Listener::new()?;
    let mut caller = start("callback", &["call", &listener.addr, "1:a"])?;
    let mut peer = listener.accept()?;
    peer.lines(&["1 1 a"])?;
    caller.expect("no answer to 1: timed out")?;
    peer.send("1 late\n")?;
    caller.expect("too late: 1 late")?;
    ensure!(caller.wait()?.code() == Some(1));
    Ok(())
}

fn answers_without_a_request() -> Result<()> {
    let (status, printed) = call(&["1:a", "1:b"], |mut peer| {
        peer.lines(&["1 1 a", "2 1 b"])?;
        peer.send("99 x\nhello x\n1 aa\n1 again\n2 bb\n")?;
        peer.wait_closed()
    })?;
    ensure!(status == Some(0), "{printed}");
    in_order(
        &printed,
        &["too late: 99 x", "late: hello x", "answer to 1: aa", "late: 1 again", "to 2: bb"],
    )
}

fn loss_while_calls_wait() -> Result<()> {
    for reset in [false, true] {
        let (status, printed) = call(&["1:a", "1:b", "1:c"], move |mut peer| {
            peer.lines(&["1 1 a", "2 1 b", "3 1 c"])?;
            peer.send("2 bb\n")?;
            if reset { peer.reset() } else { Ok(()) }
        })?;
        ensure!(status == Some(1), "{printed}");
        // An RST discards what the caller has not read yet.
        let parts: &[&str] = if reset { &[] } else { &["answer to 2: bb"] };
        in_order(&printed, parts)?;
        in_order(&printed, &["no answer to 1: ", "no answer to 3: "])?;
        ensure!(printed.matches("answer to").count() == 3, "{printed}");
    }
    Ok(())
}

/// A part of an answer can look like a complete answer.
fn an_answer_that_is_cut_off() -> Result<()> {
    for cut in ["1 the balance is 1000", "1 ", "1"] {
        let (status, printed) = call(&["1:a"], move |mut peer| {
            peer.lines(&["1 1 a"])?;
            peer.send(cut)
        })?;
        ensure!(status == Some(1), "{cut:?}: {printed}");
        in_order(&printed, &["no answer to 1: ", "in the middle of a line"])?;
    }
    Ok(())
}

/// Calls after the loss fail at once, and not after a timeout.
fn calls_after_the_loss() -> Result<()> {
    let requests = vec!["1:a"; 64];
    let (status, printed) = call(&requests, |mut peer| {
        peer.lines(&["1 1 a"])?;
        peer.reset()
    })?;
    ensure!(status == Some(1) && printed.matches("no answer to").count() == 64, "{printed}");
    ensure!(!printed.contains("timed out"), "{printed}");
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

fn invalid_answers() -> Result<()> {
    let endless = vec![b'x'; 100_000];
    for (answer, part) in [
        (&b"nonsense\n"[..], "invalid answer \"nonsense\""),
        (&endless, "longer than"),
        (b"1 \xff\n", "not UTF-8"),
    ] {
        let answer = answer.to_owned();
        let (status, printed) = call(&["1:a", "1:b"], move |mut peer| {
            peer.lines(&["1 1 a", "2 1 b"])?;
            let _ = peer.send(answer); // the caller need not read all of it
            peer.wait_closed()
        })?;
        ensure!(status == Some(1), "{printed}");
        in_order(&printed, &["no answer to 1: ", part, "no answer to 2: ", part])?;
    }
    Ok(())
}

/// The table is bounded: a call above the limit fails at once.
fn too_many_calls() -> Result<()> {
    let listener = Listener::new()?;
    let args = [&["call", &listener.addr][..], &["1:a"; 70]].concat();
    let mut caller = start("callback", &args)?;
    let mut peer = listener.accept()?;
    for id in 65..=70 {
        caller.expect(&format!("no answer to {id}: too many calls"))?;
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

fn no_server() -> Result<()> {
    let closed = ClosedPort::new()?;
    let part = format!("cannot connect to {}: Connection refused", closed.addr);
    fails(&run("callback", &["call", &closed.addr, "1:a"])?, 1, &part)?;
    fails(&run("callback", &["call", "nowhere", "1:a"])?, 1, "cannot connect to nowhere")
}

/// A request is one line: a line break in an argument must not send two. It is refused before
/// anything is sent.
fn invalid_requests() -> Result<()> {
    let closed = ClosedPort::new()?;
    let long = format!("1:{}", "x".repeat(5000));
    for request in ["10:a\n99 10 b", "1:a\rb", "1:a\x1b", "a", "a:b", "-1:b", ":b"] {
        let output = run("callback", &["call", &closed.addr, "1:a", request])?;
        fails(&output, 1, &format!("the request {request:?}"))?;
    }
    let server = server("callback", &["serve", "127.0.0.1:0"])?;
    let output = run("callback", &["call", &server.addr, &long, "1:abc"])?;
    in_order(&text(&output.stdout), &["no answer to 1: a request must be one line", "to 2: cba"])
}

/// A server must not be able to write to the terminal of the user.
fn text_is_escaped() -> Result<()> {
    let (status, printed) = call(&["1:a"], |mut peer| {
        peer.lines(&["1 1 a"])?;
        peer.send("2 \x1b[2J\n1 \x1b]0;owned\x07\u{202e}\n")
    })?;
    ensure!(status == Some(0), "{printed}");
    in_order(&printed, &["too late: 2 \\u{1b}[2J", "answer to 1: \\u{1b}]0;owned\\u{7}\\u{202e}"])
}
