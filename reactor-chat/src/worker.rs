//! The workers: they do what the events ask for.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{Effects, Id, Owed, READ};
use common::{Accepted, accept, lock, read, write};
use log::{debug, error, warn};

use crate::connection::Connection;
use crate::queue::Request;
use crate::{LISTENER, Server, TIMER};

/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// How long until `accept` is tried again while descriptors are short.
const RETRY: Duration = Duration::from_millis(100);

/// A worker, with room for what it reads, what it writes, and what follows: nothing stays there.
pub struct Worker {
    server: &'static Server,
    input: [u8; READ],
    output: Vec<u8>,
    effects: Effects,
}

impl Worker {
    /// Starts one; it sleeps until there is something to do, and ends with the process.
    pub fn start(server: &'static Server, n: usize) -> io::Result<()> {
        let worker = Self { server, input: [0; READ], output: vec![], effects: <_>::default() };
        thread::Builder::new().name(format!("worker-{n}")).spawn(|| worker.work()).map(drop)
    }

    fn work(mut self) {
        loop {
            let done = match self.server.queue.take() {
                Request::Read(LISTENER) => self.accept_some(),
                Request::Read(TIMER) => self.expire(),
                Request::Read(key) => self.go_on(key, Self::read),
                Request::Write(key) => self.go_on(key, Self::write),
            };
            // What goes wrong with a connection ends there: this is the listener's or the poller's.
            if let Err(error) = done {
                error!("{error}");
                process::exit(1);
            }
        }
    }

    fn accept_some(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match accept(&self.server.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
                Accepted::WouldBlock => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    // It would be ready all the time: not before the timer, or somebody leaves.
                    self.server.queue.set_alarm(Instant::now() + RETRY);
                    return Ok(());
                }
            }
        }
        self.server.register_listener()
    }

    /// A client has come: it is welcomed, and registered with that (1).
    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let id = lock(&self.server.room).join(Instant::now(), &mut self.effects);
        match Connection::new(stream, peer, id, self.server.poller) {
            Ok(connection) => drop(lock(&self.server.connections).insert(id, connection)),
            // The kernel's own limit: `fs.epoll.max_user_watches`.
            Err(error) => {
                warn!("{peer} refused: {error}");
                lock(&self.server.room).leave(id, &mut self.effects);
            }
        }
        self.follow_up()
    }

    fn expire(&mut self) -> io::Result<()> {
        lock(&self.server.room).expire(Instant::now(), &mut self.effects);
        self.follow_up()?;
        self.server.register_listener() // the alarm may have been one of a shortage
    }

    /// One step of one client: a read or a write.
    fn go_on(
        &mut self,
        key: usize,
        copy: fn(&mut Self, &Connection) -> io::Result<()>,
    ) -> io::Result<()> {
        let id = Id(key as u64);
        let connection = lock(&self.server.connections).get(&id).cloned();
        let Some(connection) = connection.filter(|it| it.hold()) else { return Ok(()) };
        // A reset (`ECONNRESET`, `EPIPE`), a time-out, a lost route: of this client only.
        if let Err(error) = copy(self, &connection) {
            debug!("{}: {error}", connection.peer);
            lock(&self.server.room).leave(id, &mut self.effects);
            self.effects.close.push(id);
        }
        self.follow_up()?;
        connection.register(|interest| interest.held = false)
    }

    /// Reads once, and handles what came (4).
    fn read(&mut self, connection: &Connection) -> io::Result<()> {
        let count = read(&connection.stream, &mut self.input)?;
        self.server.queue.give_back(READ - count.unwrap_or(0));
        let Some(count) = count else { return Ok(()) };
        let (id, now) = (connection.id, Instant::now());
        if count > 0 {
            let bytes = &self.input[..count];
            lock(&self.server.room).input(id, bytes, now, &mut self.effects);
            return Ok(());
        }
        connection.register(|interest| interest.read = false)?;
        lock(&self.server.room).end(id, now, &mut self.effects);
        // Where the client has not only ended but is gone, this is what tells.
        self.write(connection)
    }

    /// Writes once, all that waits for the client (7).
    fn write(&mut self, connection: &Connection) -> io::Result<()> {
        connection.register(|interest| interest.write = false)?;
        let mut owed = lock(&self.server.room).owed(connection.id, 0, &mut self.output);
        if owed == Owed::Lines {
            let sent = write(&connection.stream, &self.output)?;
            owed = lock(&self.server.room).owed(connection.id, sent, &mut self.output);
        }
        match owed {
            Owed::Lines => connection.register(|interest| interest.write = true)?,
            Owed::Nothing => {}
            Owed::Close => self.effects.close.push(connection.id),
        }
        Ok(())
    }

    /// What follows from what the room was told: an alarm, receivers to register (4), a farewell.
    fn follow_up(&mut self) -> io::Result<()> {
        let expiry = lock(&self.server.room).next_expiry();
        if let Some(expiry) = expiry {
            self.server.queue.set_alarm(expiry);
        }
        let Effects { write, close } = &mut self.effects;
        let mut connections = lock(&self.server.connections);
        let write: Vec<_> =
            write.drain(..).filter_map(|id| connections.get(&id).cloned()).collect();
        let close: Vec<_> = close.drain(..).filter_map(|id| connections.remove(&id)).collect();
        drop(connections);
        // Nobody is written to here: that may wait. Pitfall: blocking-broadcast
        for connection in write {
            connection.register(|interest| interest.write = true)?;
        }
        if !close.is_empty() {
            drop(close);
            self.server.register_listener()?; // there are descriptors again
        }
        Ok(())
    }
}
