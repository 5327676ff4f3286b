//! The workers: they accept, read, apply the rules of the room, compute, and write.

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{
    Effects, Id, READ_SIZE, WriterStep, has_unread_input, shut_down_writing, write_output,
};
use common::{Accepted, accept, lock, read};
use log::{error, info, warn};

use crate::connection::Connection;
use crate::queue::{Finished, Job, Request, Rest, Work};
use crate::{LISTENER, Server, TIMER};

/// The most connections accepted per request, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// Time until `accept` is tried again while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A worker. Its fields are scratch memory: they are empty between two requests.
pub struct Worker {
    server: &'static Server,
    buffer: [u8; READ_SIZE],
    effects: Effects,
    /// Bytes of input that the room has processed in this request. A rest that waits for a computation is
    /// charged when it is processed.
    processed: usize,
    /// How much of the reserved budget this request has returned.
    returned: usize,
    /// This request has closed a connection.
    has_closed: bool,
}

impl Worker {
    /// Starts a worker. It ends with the process.
    pub fn start(server: &'static Server, number: usize) -> io::Result<()> {
        let buffer = [0; READ_SIZE];
        let effects = Effects::default();
        let worker = Self { server, buffer, effects, processed: 0, returned: 0, has_closed: false };
        thread::Builder::new().name(format!("worker-{number}")).spawn(|| worker.work())?;
        Ok(())
    }

    fn work(mut self) {
        let mut finished = None;
        loop {
            let (work, result) = match self.server.queue.next(finished) {
                Request::Read(LISTENER) => (Work::Input, self.accept_some()),
                Request::Read(TIMER) => (Work::Input, self.on_timeout()),
                Request::Read(key) => (Work::Input, self.on_readable(Id(key as u64))),
                Request::Process(rest) => (Work::Input, self.process_rest(&rest)),
                Request::Write(key) => (Work::Write, self.on_writable(Id(key as u64))),
                Request::Compute(job) => (Work::Computation, self.compute(job)),
            };
            let result = result.and_then(|()| self.resume_accepting());
            // This is an error of the poller. Errors of a connection have been handled above: they
            // close that connection.
            if let Err(error) = result {
                error!("epoll_ctl: {error}");
                process::exit(1);
            }
            let cost = self.effects.take_charge(mem::take(&mut self.processed));
            finished = Some(Finished { work, returned: mem::take(&mut self.returned), cost });
        }
    }

    fn accept_some(&mut self) -> io::Result<()> {
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.server.listener) {
                Accepted::Connection(stream, peer) => self.add(stream, peer)?,
                Accepted::WouldBlock => break,
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    // The listener is registered again at this time, or when a connection closes.
                    self.server.accept_paused.store(true, Ordering::Relaxed);
                    self.server.queue.set_deadline(Instant::now() + ACCEPT_RETRY);
                    return Ok(());
                }
            }
        }
        self.server.register_listener()
    }

    /// Adds a client to the room, and adds its socket to the poller (1). The greeting is output, so
    /// `apply_effects` registers it for reading and writing.
    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let id = lock(&self.server.room).join(Instant::now(), &mut self.effects);
        match Connection::new(stream, peer, id, self.server.poller) {
            Ok(connection) => {
                lock(&self.server.connections).insert(id, connection);
            }
            // ENOSPC: the user's limit on watched sockets (fs.epoll.max_user_watches), or ENOMEM.
            Err(error) => {
                warn!("{peer} refused: {error}");
                lock(&self.server.room).disconnect(id, &mut self.effects);
            }
        }
        self.apply_effects()
    }

    /// The deadline of the room has come, or it is time to accept again.
    fn on_timeout(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let idle = lock(&self.server.room).expire(now, &mut self.effects);
        for id in idle {
            let Some(connection) = self.server.connection(id) else { continue };
            // Input that has arrived in time counts. Pitfall: timer-before-input
            // Looks at the socket first: input that a worker reads between the two tests makes the
            // connection busy, or the room knows it already.
            if !has_unread_input(&connection.stream) && !connection.is_busy() {
                lock(&self.server.room).dismiss(id, now, &mut self.effects);
            }
        }
        self.apply_effects()?;
        self.server.resume_accepting()
    }

    /// Reads once, and processes what arrived (4).
    fn on_readable(&mut self, id: Id) -> io::Result<()> {
        let Some(connection) = self.server.connection(id) else { return Ok(()) };
        if !connection.claim_for_read() {
            return Ok(());
        }
        match read(&connection.stream, &mut self.buffer) {
            Ok(None) => {} // another worker has read it
            Ok(Some(0)) => {
                connection.update(|state| state.read = false)?;
                self.server.process(&connection, None, &mut self.effects)?;
                // If the client has not only finished but is gone, this write fails.
                self.write(&connection)?;
            }
            Ok(Some(count)) => {
                self.returned = READ_SIZE - count;
                self.server.queue.return_budget(self.returned);
                let input = Some(&self.buffer[..count]);
                let rest = self.server.process(&connection, input, &mut self.effects)?;
                self.processed = count - rest.unwrap_or(0);
            }
            Err(error) => self.fail(&connection, &error),
        }
        self.apply_effects()?;
        connection.update(|state| state.claimed = false)
    }

    /// Computes, with nothing locked. The input that waited for the result goes back to the queue,
    /// because of the budget.
    fn compute(&mut self, job: Job) -> io::Result<()> {
        let Job { connection, computation, rest } = job;
        let result = computation.run();
        lock(&self.server.room).reply(connection.id, &result, &mut self.effects);
        self.apply_effects()?;
        self.server.queue.process(Rest { connection, input: rest });
        Ok(())
    }

    /// Processes the rest of a read, after a computation.
    fn process_rest(&mut self, rest: &Rest) -> io::Result<()> {
        let connection = &rest.connection;
        let input = rest.input.as_deref();
        let rest = self.server.process(connection, input, &mut self.effects)?;
        self.processed = input.map_or(0, <[u8]>::len) - rest.unwrap_or(0);
        self.apply_effects()?;
        if rest.is_some() {
            return Ok(()); // another computation
        }
        connection.update(|state| state.computing = false)
    }

    /// Writes all pending output, as far as the socket takes it (7).
    fn on_writable(&mut self, id: Id) -> io::Result<()> {
        let Some(connection) = self.server.connection(id) else { return Ok(()) };
        if !connection.claim_for_write() {
            return Ok(());
        }
        self.write(&connection)?;
        self.apply_effects()?;
        connection.update(|state| state.claimed = false)
    }

    fn write(&mut self, connection: &Connection) -> io::Result<()> {
        let id = connection.id;
        let room = &self.server.room;
        connection.update(|state| state.write = false)?;
        let mut output = mem::take(&mut *lock(&connection.output));
        let mut step = lock(room).take_output(id, 0, &mut output);
        if step == WriterStep::Write {
            match write_output(&connection.stream, &mut output) {
                Ok(written) => step = lock(room).take_output(id, written, &mut output),
                Err(error) => {
                    self.fail(connection, &error);
                    return Ok(());
                }
            }
        }
        *lock(&connection.output) = output;
        match step {
            WriterStep::Write => connection.update(|state| state.write = true)?,
            WriterStep::Wait => {}
            WriterStep::ShutDown => shut_down_writing(&connection.stream),
            WriterStep::Close => self.effects.close.push(id),
        }
        Ok(())
    }

    /// A connection has failed: a reset (ECONNRESET, EPIPE), a timeout, a lost route.
    fn fail(&mut self, connection: &Connection, error: &io::Error) {
        if lock(&self.server.connections).remove(&connection.id).is_some() {
            info!("{} disconnected: {error}", connection.peer);
            self.has_closed = true;
        }
        lock(&self.server.room).disconnect(connection.id, &mut self.effects);
    }

    /// Does what the room asks for: registers the clients that have output now (4), and closes
    /// connections.
    fn apply_effects(&mut self) -> io::Result<()> {
        let deadline = lock(&self.server.room).next_deadline();
        if let Some(deadline) = deadline {
            self.server.queue.set_deadline(deadline);
        }
        let Effects { write, close, .. } = &mut self.effects;
        let mut connections = lock(&self.server.connections);
        let have_output: Vec<_> =
            write.drain(..).filter_map(|id| connections.get(&id).cloned()).collect();
        let closed: Vec<_> = close.drain(..).filter_map(|id| connections.remove(&id)).collect();
        drop(connections);
        for connection in have_output {
            // No write here: this worker would then write to all of these clients, one after the
            // other, instead of sharing the work. Pitfall: blocking-broadcast
            connection.update(|state| state.write = true)?;
        }
        for connection in &closed {
            info!("{} disconnected", connection.peer);
        }
        self.has_closed |= !closed.is_empty();
        Ok(())
    }

    /// Accepts again after a request that has closed a connection. Only now has this worker dropped
    /// it, which frees the file descriptor. If another worker still has it, the retry comes later.
    fn resume_accepting(&mut self) -> io::Result<()> {
        if mem::take(&mut self.has_closed) { self.server.resume_accepting() } else { Ok(()) }
    }
}

impl Server {
    fn connection(&self, id: Id) -> Option<Arc<Connection>> {
        lock(&self.connections).get(&id).cloned()
    }

    /// Passes input of a client to the room: bytes, or `None` for its FIN. If the rest of this input
    /// must wait for a computation, returns the number of its bytes.
    fn process(
        &self,
        connection: &Arc<Connection>,
        input: Option<&[u8]>,
        effects: &mut Effects,
    ) -> io::Result<Option<usize>> {
        let id = connection.id;
        let now = Instant::now();
        let mut rest = input.unwrap_or_default();
        let mut room = lock(&self.room);
        let computation = match input {
            Some(_) => room.input(id, &mut rest, now, effects),
            None => room.end_of_input(id, now, effects),
        };
        drop(room);
        let Some(computation) = computation else { return Ok(None) };
        connection.update(|state| state.computing = true)?;
        let length = rest.len();
        let rest = input.map(|_| rest.to_vec());
        self.queue.compute(Job { connection: Arc::clone(connection), computation, rest });
        Ok(Some(length))
    }
}
