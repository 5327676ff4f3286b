//! The clients find what wrong servers do wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{ChatClients, Settings};
use crate::clients::Clients;

const SETTINGS: Settings = Settings { clients: 6, timeout: Duration::from_secs(2) };

/// Returns the lines that the client with this index receives instead of a line. The first
/// argument is the number of lines before it, the second the index of the client.
type Deliver = fn(usize, usize, &str) -> Vec<String>;

/// The number of lines so far, and the clients.
type State = (usize, Vec<TcpStream>);

/// Starts a server that keeps a room behind one lock.
fn start_server(deliver: Deliver) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it has an address");
    let room = Arc::new(Mutex::new((0, Vec::new())));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a client connects");
            stream.set_nodelay(true).expect("it is a socket");
            let reader = BufReader::new(stream.try_clone().expect("a descriptor is free"));
            let own = join(&mut room.lock().expect("no thread panics"), stream);
            let room = Arc::clone(&room);
            thread::spawn(move || relay(&room, own, reader, deliver));
        }
    });
    addr
}

/// Greets a client and returns its index.
fn join((_, clients): &mut State, stream: TcpStream) -> usize {
    let own = clients.len();
    for mut client in &*clients {
        let line = format!("* guest{} joined\n", own + 1);
        client.write_all(line.as_bytes()).expect("the client reads");
    }
    let greeting = format!("* you are guest{}; {own} others here\n", own + 1);
    (&stream).write_all(greeting.as_bytes()).expect("the client reads");
    clients.push(stream);
    own
}

fn relay(room: &Mutex<State>, own: usize, reader: BufReader<TcpStream>, deliver: Deliver) {
    for line in reader.lines().map_while(Result::ok) {
        let (count, clients) = &mut *room.lock().expect("no thread panics");
        let text = format!("guest{}: {line}", own + 1);
        for (index, mut client) in clients.iter().enumerate() {
            if index != own {
                let lines = deliver(*count, index, &text);
                let bytes: String = lines.iter().map(|line| line.clone() + "\n").collect();
                // Fails at the end of the test, when the clients have disconnected.
                let _ = client.write_all(bytes.as_bytes());
            }
        }
        *count += 1;
    }
}

fn run(addr: SocketAddr) -> Result<u64> {
    let mut clients = ChatClients::connect(addr, SETTINGS)?;
    let mut messages = 0;
    // Until long after the mistakes of the wrong servers, however slow the machine is.
    while messages < 500 {
        clients.run(Duration::from_millis(10))?;
        messages += clients.take().messages;
    }
    clients.drain()?;
    messages += clients.take().messages;
    Box::new(clients).finish()?;
    Ok(messages)
}

fn failure(deliver: Deliver) -> String {
    format!("{:#}", run(start_server(deliver)).expect_err("the server is wrong"))
}

#[test]
fn lines_of_a_correct_server_are_counted() {
    let addr = start_server(|_, _, line| vec![line.to_owned()]);
    let messages = run(addr).expect("the server is correct");
    assert!(messages > 0 && messages % 5 == 0, "{messages}");
}

#[test]
fn a_line_that_one_client_does_not_receive_is_found() {
    let failure =
        failure(
            |count, index, line| {
                if count == 5 && index == 4 { Vec::new() } else { vec![line.to_owned()] }
            },
        );
    assert!(failure.contains("where others received") || failure.contains("late"), "{failure}");
}

#[test]
fn a_line_that_no_client_receives_is_found() {
    let failure =
        failure(|count, _, line| if count == 5 { Vec::new() } else { vec![line.to_owned()] });
    assert!(failure.contains("did not deliver"), "{failure}");
}

#[test]
fn duplicated_lines_are_found() {
    // A sender receives several twice, because one of them may be its own.
    let for_sender: Deliver =
        |count, index, line| vec![line.to_owned(); 1 + usize::from(count >= 5 && index == 0)];
    let for_receiver: Deliver =
        |count, index, line| vec![line.to_owned(); 1 + usize::from(count == 5 && index == 5)];
    for deliver in [for_sender, for_receiver] {
        let failure = failure(deliver);
        assert!(!failure.contains("did not"), "{failure}");
    }
}

#[test]
fn lines_in_another_order_for_one_client_are_found() {
    static KEPT: Mutex<Option<String>> = Mutex::new(None);
    let failure = failure(|count, index, line| {
        if index != 5 {
            return vec![line.to_owned()];
        }
        let mut kept = KEPT.lock().expect("no thread panics");
        if count == 5 {
            *kept = Some(line.to_owned());
            return Vec::new();
        }
        [Some(line.to_owned()), kept.take()].into_iter().flatten().collect()
    });
    assert!(failure.contains("where others received"), "{failure}");
}

#[test]
fn a_changed_character_is_found() {
    let failure = failure(|count, index, line| {
        let is_changed = count == 5 && index == 5;
        vec![if is_changed { line.replacen('0', "O", 1) } else { line.to_owned() }]
    });
    assert!(!failure.contains("did not"), "{failure}");
}

#[test]
fn a_line_that_no_client_sent_is_found() {
    let failure = failure(|count, index, line| {
        let mut lines = vec![line.to_owned()];
        if count == 3 && index == 5 {
            lines.push("guest9: boo".to_owned());
        }
        lines
    });
    assert!(failure.contains("boo"), "{failure}");
}
