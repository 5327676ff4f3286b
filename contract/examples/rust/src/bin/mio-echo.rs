//! An echo server on mio, as the documentation of its `Poll` describes the loop: edge-triggered, so
//! that each socket is read until `WouldBlock`.
//!
//! Documentation: <https://docs.rs/mio/latest/mio/struct.Poll.html>

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let mut listener = TcpListener::bind(address.parse().map_err(io::Error::other)?)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
    let (mut events, mut clients, mut next) = (Events::with_capacity(128), HashMap::new(), 1);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() != Token(0) {
                let Some((stream, pending)) = clients.get_mut(&event.token()) else { continue };
                match echo(stream, pending) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => drop(clients.remove(&event.token())),
                }
                continue;
            }
            loop {
                let mut stream = match listener.accept() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    result => result?.0,
                };
                let both = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, Token(next), both)?;
                clients.insert(Token(next), (stream, Vec::new()));
                next += 1;
            }
        }
    }
}

/// Returns at the end of the connection. `WouldBlock`: go on at the next event.
fn echo(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        while !pending.is_empty() {
            let count = stream.write(pending)?;
            pending.drain(..count);
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..count]);
    }
}
