//! The broker of `publish-subscribe`, and the same checks for a real nats-server.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::nats::{Kind, client, flush, for_both};
use crate::peer::Peer;
use crate::support::join;

pub fn trials() -> Vec<Trial> {
    for_both(
        "broker",
        &[
            ("greeting", greeting),
            ("wildcards", wildcards),
            ("queue_groups", queue_groups),
            ("unsubscribe", unsubscribe),
            ("payloads_of_all_kinds", payloads_of_all_kinds),
            ("a_byte_at_a_time", a_byte_at_a_time),
            ("echo_can_be_disabled", echo_can_be_disabled),
            ("refusals", refusals),
            ("errors_that_end_it", errors_that_end_it),
            ("one_order_for_all", one_order_for_all),
        ],
    )
}

fn greeting(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = Peer::connect(&broker.addr)?.answering_pings();
    let info = peer.line()?;
    for part in ["INFO {", "\"server_id\":", "\"version\":", "\"max_payload\":1048576"] {
        ensure!(info.contains(part), "{info}");
    }
    peer.send("connect {}\r\nPING\r\nSUB a 1\r\nPUB a 2\r\nhi\r\nUNSUB 1\r\n")?;
    let mut lines = (0..7).map(|_| peer.line()).collect::<Result<Vec<_>>>()?;
    // The `+OK` for PUB and the message may come in either order.
    lines.sort_unstable();
    ensure!(lines == ["+OK", "+OK", "+OK", "+OK", "MSG a 1 2", "PONG", "hi"], "{lines:?}");
    Ok(())
}

fn wildcards(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut one, mut two) = (client(&broker)?, client(&broker)?);
    one.send("SUB a.*.c star\r\nSUB a.> rest\r\nSUB other 1\r\n")?;
    flush(&mut one)?;
    two.send(
        "PUB a.b.c 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a.b answer.to 1\r\n3\r\nPUB a.b.c.d 1\r\n4\r\n",
    )?;
    flush(&mut two)?;
    let mut first = [one.line()?, one.line()?, one.line()?, one.line()?];
    first.sort_unstable();
    ensure!(first == ["1", "1", "MSG a.b.c rest 1", "MSG a.b.c star 1"], "{first:?}");
    one.lines(&["MSG a.b rest answer.to 1", "3", "MSG a.b.c.d rest 1", "4"])?;
    flush(&mut one)
}

/// One member of each group gets a message, whatever its pattern; all other subscribers get it too.
fn queue_groups(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut workers = Vec::new();
    for pattern in ["jobs", "jobs", "*"] {
        let mut worker = client(&broker)?;
        worker.send(format!("SUB {pattern} workers 1\r\n"))?;
        flush(&mut worker)?;
        workers.push(worker);
    }
    let mut watcher = client(&broker)?;
    watcher.send("SUB jobs 1\r\n")?;
    flush(&mut watcher)?;
    for id in 100..200 {
        watcher.send(format!("PUB jobs 3\r\n{id}\r\n"))?;
    }
    for id in 100..200 {
        watcher.lines(&["MSG jobs 1 3", &id.to_string()])?;
    }
    // The watcher may get its message before the worker does.
    flush(&mut watcher)?;
    let mut seen = BTreeSet::new();
    for mut worker in workers {
        worker.send("PING\r\n")?;
        let mut count = 0;
        while worker.line()? != "PONG" {
            let id = worker.line()?;
            ensure!(seen.insert(id.clone()), "{id} arrived twice");
            count += 1;
        }
        // Our broker takes turns. The real one picks at random: that one of three workers gets none of
        // 100 jobs has a probability of 10^-18.
        ensure!(count > 0, "a worker got nothing");
    }
    ensure!(seen.len() == 100, "{} of 100", seen.len());
    Ok(())
}

fn unsubscribe(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    peer.send("SUB a 1\r\nUNSUB 1\r\nPUB a 1\r\nx\r\n")?;
    flush(&mut peer)?;
    // Two messages, and no third.
    peer.send("SUB a 2\r\nUNSUB 2 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\n")?;
    peer.lines(&["MSG a 2 1", "1", "MSG a 2 1", "2"])?;
    flush(&mut peer)?;
    // A message that arrived before counts.
    peer.send("SUB a 3\r\nPUB a 1\r\n1\r\nUNSUB 3 1\r\nPUB a 1\r\n2\r\n")?;
    peer.lines(&["MSG a 3 1", "1"])?;
    flush(&mut peer)
}

fn payloads_of_all_kinds(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut one, mut two) = (client(&broker)?, client(&broker)?);
    one.send("SUB a 1\r\n")?;
    flush(&mut one)?;
    let large: Vec<u8> = (0..1_048_576_u32).map(|n| (n % 251) as u8).collect();
    for payload in [&b""[..], b"\r\n", b"PUB a 3\r\nabc\r\n", b"\0\xff\xfe", &large] {
        two.send(format!("PUB a {}\r\n", payload.len()))?;
        two.send(payload)?;
        two.send("\r\n")?;
        one.lines(&[&format!("MSG a 1 {}", payload.len())])?;
        ensure!(one.bytes(payload.len())? == payload, "{} bytes, or other bytes", payload.len());
        ensure!(one.bytes(2)? == b"\r\n");
    }
    Ok(())
}

fn a_byte_at_a_time(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    for byte in "SUB a 1\r\nPUB a 5\r\nhello\r\n".bytes() {
        peer.send([byte])?;
    }
    peer.lines(&["MSG a 1 5", "hello"])
}

fn echo_can_be_disabled(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut one, mut two) = (client(&broker)?, client(&broker)?);
    // The name must not be taken for the option.
    let options = "{\"name\":\"echo\",\"verbose\":false,\"echo\":false,\"protocol\":1}";
    one.send(format!("CONNECT {options}\r\nSUB a 1\r\n"))?;
    two.send("SUB a 1\r\n")?;
    flush(&mut two)?;
    one.send("PUB a 1\r\nx\r\n")?;
    two.lines(&["MSG a 1 1", "x"])?;
    flush(&mut one)
}

fn refusals(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut peer = client(&broker)?;
    for subject in ["a..b", ".a", "a.", "a.>.b"] {
        peer.send(format!("SUB {subject} 1\r\n"))?;
        peer.lines(&["-ERR 'Invalid Subject'"])?;
    }
    // The subject of a message is checked in pedantic mode only: nats-py would close the connection.
    let publish = "PUB a..b 1\r\nx\r\n";
    peer.send(publish)?;
    flush(&mut peer)?;
    peer.send(format!("CONNECT {{\"verbose\":false,\"pedantic\":true}}\r\n{publish}"))?;
    peer.lines(&["-ERR 'Invalid Publish Subject'"])?;
    flush(&mut peer)
}

fn errors_that_end_it(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let (mut other, long) = (client(&broker)?, "x".repeat(100_000));
    for (nonsense, error) in [
        ("HELLO\r\n", "-ERR 'Unknown Protocol Operation'"),
        ("GET / HTTP/1.1\r\n\r\n", "-ERR 'Unknown Protocol Operation'"),
        ("PUB a 1048577\r\n", "-ERR 'Maximum Payload Violation'"),
        ("PUB a 99999999999\r\n", "-ERR '"),
        ("PUB a nine\r\n", "-ERR '"),
        ("PUB a 1\r\nlonger\r\n", "-ERR '"),
        (&long, "-ERR '"),
        (&format!("SUB {long}\r\n"), "-ERR '"),
    ] {
        let mut peer = client(&broker)?;
        // The broker may close the connection before everything is sent.
        let _ = peer.send(nonsense);
        // The real server closes the connection without a word for some of them.
        if kind == Kind::Ours || error != "-ERR '" {
            let line = peer.line()?;
            ensure!(line.starts_with(error), "{nonsense:.20}: {line}");
        }
        peer.wait_closed()?;
    }
    flush(&mut other)
}

fn one_order_for_all(kind: Kind) -> Result<()> {
    let broker = kind.start()?;
    let mut readers = [client(&broker)?, client(&broker)?];
    for reader in &mut readers {
        reader.send("SUB a 1\r\n")?;
        flush(reader)?;
    }
    let publish = |mut peer: Peer, name: char| -> Result<()> {
        for id in 100..300 {
            peer.send(format!("PUB a 4\r\n{name}{id}\r\n"))?;
        }
        flush(&mut peer)
    };
    let (one, two) = (client(&broker)?, client(&broker)?);
    let thread = thread::spawn(move || publish(one, 'a'));
    publish(two, 'b')?;
    join(thread)?;
    let mut seen = Vec::new();
    for reader in &mut readers {
        let lines = (0..800).map(|_| reader.line()).collect::<Result<Vec<_>>>()?;
        seen.push(lines);
    }
    // The real server keeps the order of each publisher, ours that of all together.
    if kind == Kind::Ours {
        ensure!(seen[0] == seen[1], "the readers saw different orders");
    }
    for lines in seen {
        for name in ['a', 'b'] {
            let from_one = lines.iter().filter(|line| line.starts_with(name));
            ensure!(
                from_one.eq((100..300).map(|id| format!("{name}{id}")).collect::<Vec<_>>().iter())
            );
        }
    }
    Ok(())
}
