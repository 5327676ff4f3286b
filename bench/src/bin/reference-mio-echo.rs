//! mio, used as its documentation shows for a TCP server: edge-triggered, with a token and a map
//! entry per connection. It reads until `WouldBlock`, and registers for writability while output
//! is pending.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};

use anyhow::Context;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

const LISTENER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut listener = TcpListener::bind(addr.parse().context("ADDR")?)?;
    println!("reference-mio-echo listening on {}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections = HashMap::new();
    let mut last_token = LISTENER.0;
    let mut buffer = vec![0; baseline::BUFFER_SIZE];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                loop {
                    let mut stream = match listener.accept() {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        result => result?.0,
                    };
                    stream.set_nodelay(true)?;
                    last_token += 1;
                    let token = Token(last_token);
                    poll.registry().register(&mut stream, token, Interest::READABLE)?;
                    connections.insert(token, Connection { stream, pending: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                let open = connection.on_ready(poll.registry(), event.token(), &mut buffer);
                if !open.unwrap_or(false) {
                    connections.remove(&event.token());
                }
            }
        }
    }
}

impl Connection {
    /// Returns false at the end of the input.
    fn on_ready(
        &mut self,
        registry: &Registry,
        token: Token,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        if !self.pending.is_empty() {
            self.flush()?;
            if !self.pending.is_empty() {
                return Ok(true);
            }
            registry.reregister(&mut self.stream, token, Interest::READABLE)?;
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.pending.extend_from_slice(&buffer[..count]);
                    self.flush()?;
                    if !self.pending.is_empty() {
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

    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
