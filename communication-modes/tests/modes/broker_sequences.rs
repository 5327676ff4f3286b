//! The same bytes to our broker and to a real nats-server: both must answer with the same bytes, or
//! the difference is one of those that `docs/communication-modes.md` lists.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;

use crate::nats::{Broker, Kind};
use crate::peer::Peer;
use crate::support::{missing, text, trial};

pub fn trials() -> Vec<Trial> {
    let nats = missing("nats-server");
    let same = || compare(SAME, |ours, real| ours == real);
    let reason = || compare(REASON_GIVEN, gives_a_reason);
    let others = || compare(OTHERS, |ours, real| ours != real);
    vec![
        trial("broker_sequences::same_answers", nats, same),
        trial("broker_sequences::a_reason_before_the_close", nats, reason),
        trial("broker_sequences::known_differences", nats, others),
    ]
}

/// What a broker sent after its `INFO`, and whether it closed the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    bytes: String,
    is_closed: bool,
}

/// Sends `bytes` to both brokers, and checks that the answers agree as `agree` says.
fn compare(sequences: &[&[u8]], agree: fn(&Answer, &Answer) -> bool) -> Result<()> {
    let (ours, real) = (Kind::Ours.start()?, Kind::Real.start()?);
    for sequence in sequences {
        let (ours, real) = (answer(&ours, sequence)?, answer(&real, sequence)?);
        let shown = text(&sequence[..sequence.len().min(200)]);
        ensure!(agree(&ours, &real), "{shown:?}:\n ours {ours:?}\n real {real:?}");
    }
    Ok(())
}

/// The real server closes the connection without a word. Ours sends `-ERR` first.
fn gives_a_reason(ours: &Answer, real: &Answer) -> bool {
    let more = ours.bytes.strip_prefix(&real.bytes).unwrap_or_default();
    ours.is_closed && real.is_closed && more.starts_with("-ERR '") && more.lines().count() == 1
}

/// nats-server sends a PING of its own 2 s after the start of a connection.
const FIRST_PING: Duration = Duration::from_millis(1500);

/// Returns what a broker answers before nats-server sends a PING of its own.
fn answer(broker: &Broker, sequence: &[u8]) -> Result<Answer> {
    for _ in 0..10 {
        let start = Instant::now();
        let answer = converse(broker, sequence)?;
        if start.elapsed() < FIRST_PING {
            return Ok(answer);
        }
    }
    bail!("this machine is too slow to compare the two")
}

/// Sends `sequence`, and reads until each PING in it is answered or the broker closes the connection.
fn converse(broker: &Broker, sequence: &[u8]) -> Result<Answer> {
    let mut peer = Peer::connect(&broker.addr)?;
    ensure!(peer.line()?.starts_with("INFO {"));
    let lines = sequence.split(|byte| *byte == b'\n');
    let pings = lines.filter(|line| line.to_ascii_uppercase().starts_with(b"PING")).count();
    // The broker may close the connection before everything is sent.
    let _ = peer.send(sequence);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let is_closed = loop {
        if pings > 0 && text(&bytes).matches("PONG\r\n").count() == pings {
            break false;
        }
        match peer.stream().read(&mut buffer) {
            Ok(0) => break true,
            Ok(count) => bytes.extend(&buffer[..count]),
            // The real server closes with unread input.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break true,
            Err(error) => bail!("{:?}: {error}, after {:?}", text(sequence), text(&bytes)),
        }
    };
    Ok(Answer { bytes: text(&bytes), is_closed })
}

macro_rules! quiet {
    ($rest:literal) => {
        concat!("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n", $rest).as_bytes()
    };
}

const SAME: &[&[u8]] = &[
    // Before and without CONNECT: verbose and pedantic.
    b"PING\r\n",
    b"SUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPONG\r\n+OK\r\nPING\r\n",
    b"PUB a..b 1\r\nx\r\nPUB a.* 1\r\nx\r\nSUB a..b 1\r\nPING\r\n",
    // CONNECT.
    b"CONNECT {}\r\nPING\r\n",
    b"CONNECT null\r\nPING\r\n",
    b"connect    {\"verbose\":false}  \r\nPING\r\n",
    b"CONNECT {\"VERBOSE\":false,\"Pedantic\":false}\r\nPUB a..b 0\r\n\r\nPING\r\n",
    b"CONNECT {\"verbose\":null}\r\nPING\r\n",
    b"CONNECT {\"verbose\":true,\"verbose\":false}\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"name\":\"echo\",\"echo\":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"lang\":\"\\\"echo\\\":false\"}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"echo\":false}\r\nCONNECT {}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n",
    b"CONNECT {\"verbose\":false}\r\nCONNECT {\"verbose\":true}\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"protocol\":1}\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"protocol\":2}\r\n",
    b"CONNECT {\"verbose\":false,\"protocol\":-1}\r\n",
    b"CONNECT {\"verbose\":false,\"user\":\"a\",\"pass\":\"b\",\"tls_required\":true}\r\nPING\r\n",
    b"CONNECT {\"verbose\":true,\"pedantic\":true}\r\nPUB a..b 1\r\nx\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"pedantic\":true}\r\nSUB > 1\r\nPUB a..b 1\r\nx\r\nPUB a.* 1\r\ny\r\nPING\r\n",
    // Subjects.
    quiet!("SUB > 1\r\nSUB a.*.b 3\r\nPUB a..b 1\r\nx\r\nPING\r\n"),
    quiet!("SUB > 1\r\nSUB *.a 2\r\nPUB .a 1\r\nx\r\nPING\r\n"),
    quiet!("SUB > 1\r\nSUB a.* 2\r\nPUB a. 1\r\nx\r\nPING\r\n"),
    quiet!("SUB > 1\r\nPUB . 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a.b 1\r\nSUB a.* 2\r\nPUB a.* 1\r\nx\r\nPING\r\n"),
    quiet!("SUB > 1\r\nSUB a 2\r\nPUB > 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a..b 1\r\nSUB .a 2\r\nSUB a. 3\r\nSUB a.>.b 4\r\nSUB >.a 5\r\nPING\r\n"),
    quiet!("SUB a*b 1\r\nPUB a*b 1\r\nx\r\nPUB axb 1\r\ny\r\nSUB a>b 2\r\nPING\r\n"),
    quiet!("SUB ä 1\r\nPUB ä 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a\0b 1\r\nPUB a\0b 1\r\nx\r\nSUB c\x1bd 2\r\nPUB c\x1bd 1\r\ny\r\nPING\r\n"),
    quiet!("SUB $SYS.> 1\r\nPING\r\n"),
    quiet!("SUB a 1\r\nPUB a r.1 1\r\nx\r\nPUB a r..1 1\r\ny\r\nPUB a r.* 1\r\nz\r\nPING\r\n"),
    // Subscriptions.
    quiet!("SUB a 1\r\nSUB b 1\r\nPUB a 1\r\nx\r\nPUB b 1\r\ny\r\nUNSUB 1\r\nPUB a 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a 1\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a foo.bar\r\nPUB a 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a q 1\r\nSUB a 2\r\nPUB a 1\r\nx\r\nPING\r\n"),
    quiet!("UNSUB 9\r\nPING\r\n"),
    quiet!("SUB a 1\r\nUNSUB 1 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\nPING\r\n"),
    quiet!("SUB a 1\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nUNSUB 1 1\r\nPUB a 1\r\n3\r\nPING\r\n"),
    quiet!("SUB a 1\r\nUNSUB 1 1\r\nUNSUB 1 2\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\nPING\r\n"),
    quiet!("SUB a 1\r\nUNSUB 1 0\r\nPUB a 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a 1\r\nUNSUB 1 -1\r\nPUB a 1\r\nx\r\nPING\r\n"),
    quiet!("SUB a 1\r\nUNSUB 1 x\r\nPUB a 1\r\nx\r\nPING\r\n"),
    // Lines.
    quiet!("sUb\ta\t1\r\npUB  a \t 1 \r\nx\r\npInG\r\n"),
    b"PING\nPING\n",
    quiet!("SUB a 1\nPUB a 1\nx\r\nPING\r\n"),
    quiet!("PING x\r\nPINGPING\r\nPING  \r\nPONG x\r\n+OK\r\nINFO {}\r\nPING\r\n"),
    quiet!("SUB a 1\r\nPUB a 0\r\n\r\nPING\r\n"),
    quiet!("SUB a 1\r\nPUB a 9\r\nPING\r\n\r\n\r\nx\r\nPING\r\n"),
    quiet!("\r\nPING\r\n"),
    quiet!("  PING\r\n"),
    quiet!("HELLO\r\n"),
    quiet!("P\r\n"),
    quiet!("GET / HTTP/1.1\r\n\r\n"),
    quiet!("PUBLISH a 1\r\nx\r\n"),
    quiet!("SUBS a 1\r\n"),
    quiet!("MSG a 1 1\r\nx\r\n"),
    quiet!("PUB\r\n"),
    quiet!("SUB\r\n"),
    quiet!("UNSUB\r\n"),
    quiet!("PUB a 1048577\r\n"),
    quiet!("PUB a 1\r\nxyz\r\n"),
    quiet!("PUB a 1\r\nx\nPING\r\n"),
];

const REASON_GIVEN: &[&[u8]] = &[
    b"CONNECT {verbose:false}\r\n",
    b"CONNECT \r\n",
    b"CONNECT\r\n",
    b"CONNECT []\r\n",
    b"CONNECT {} x\r\n",
    b"CONNECT {\"verbose\":\"no\"}\r\n",
    b"CONNECT {\"verbose\":0}\r\n",
    quiet!("PUB a\r\n"),
    quiet!("PUB a b\r\n"),
    quiet!("PUB a b c 1\r\n"),
    quiet!("PUB a -1\r\n"),
    quiet!("PUB a +1\r\nx\r\n"),
    quiet!("PUB a 99999999999999999999\r\n"),
    quiet!("PUB a 9999999999\r\n"),
    quiet!("SUB a\r\n"),
    quiet!("SUB a b c d\r\n"),
    quiet!("UNSUB 1 2 3\r\n"),
    quiet!("HPUB a 12 13\r\nNATS/1.0\r\n\r\nx\r\n"),
    quiet!("-ERR 'x'\r\n"),
];

const OTHERS: &[&[u8]] = &[
    // Headers: our INFO says that there are none, so clients do not use them. (The report that a
    // request has no responders is in `nats_client`: nats-server may send it after the PONG.)
    b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB a 1\r\nHPUB a 12 13\r\nNATS/1.0\r\n\r\nx\r\nPING\r\n",
    b"CONNECT {\"verbose\":false,\"no_responders\":true}\r\nPING\r\n",
    // Ours prints the size of the payload, the real server the digits of the publisher.
    quiet!("SUB a 1\r\nPUB a 0001\r\nx\r\nPING\r\n"),
    // Ours takes a CR for the end of a line only if LF follows, the real server for a space.
    quiet!("SUB a\rb 1\r\nPUB a\rb 1\r\nx\r\nPING\r\n"),
    // The specification says that subjects are UTF-8. The real server does not check.
    b"CONNECT {\"verbose\":false}\r\nSUB \xff 1\r\nPING\r\n",
];
