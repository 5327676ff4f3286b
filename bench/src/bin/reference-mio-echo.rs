//! mio, as its documentation teaches a TCP server: edge-triggered, a token and a map entry per
//! connection, read until `WouldBlock`, writability asked for while something is left to send.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};

use anyhow::Context;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

const SERVER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut server = TcpListener::bind(addr.parse().context("ADDR")?)?;
    println!("reference-mio-echo listening on {}", server.local_addr()?);
    poll.registry().register(&mut server, SERVER, Interest::READABLE)?;
    let mut connections = HashMap::new();
    let mut last = SERVER.0;
    let mut buffer = vec![0; baseline::BUFFER];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == SERVER {
                loop {
                    let mut stream = match server.accept() {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        result => result?.0,
                    };
                    stream.set_nodelay(true)?;
                    last += 1;
                    poll.registry().register(&mut stream, Token(last), Interest::READABLE)?;
                    connections.insert(Token(last), Connection { stream, unsent: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                let alive = connection.go_on(poll.registry(), event.token(), &mut buffer);
                if !alive.unwrap_or(false) {
                    connections.remove(&event.token());
                }
            }
        }
    }
}

impl Connection {
    /// False at the end of the input.
    fn go_on(&mut self, registry: &Registry, token: Token, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            self.send()?;
            if !self.unsent.is_empty() {
                return Ok(true);
            }
            registry.reregister(&mut self.stream, token, Interest::READABLE)?;
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.unsent.extend_from_slice(&buffer[..count]);
                    self.send()?;
                    if !self.unsent.is_empty() {
                        registry.reregister(&mut self.stream, token, Interest::WRITABLE)?;
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
