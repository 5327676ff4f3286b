//! The worker: it processes what has completed, and starts the next operations.
//!
//! There is one worker, because there is one room: a second one would wait for the first.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::mem;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use aio_echo::START_RETRY;
use common::chat::{Effects, INPUT_BUDGET, Id, Input, READ_SIZE, Room, WriterStep};
use log::{trace, warn};

use crate::MAX_ACCEPTS;
use crate::admission::Admission;
use crate::calculator::{Calculator, Job};
use crate::connection::Connection;

/// The state of the chat. It belongs to the worker alone, so nothing is locked.
pub struct Worker {
    /// Becomes readable when an operation has completed, a connection has been accepted, or a
    /// computation is done. It does not say what has happened: the worker looks for everything.
    wake: UnixStream,
    admission: Admission,
    /// The last iteration let [`MAX_ACCEPTS`] connections join. More may be waiting.
    more_accepted: bool,
    room: Room,
    effects: Effects,
    connections: BTreeMap<Id, Connection>,
    /// Completed reads, and failures, that have not been processed.
    completed: VecDeque<(Id, Input)>,
    /// How much of the budget was used up since all output was last offered to the sockets.
    processed: usize,
    calculator: Calculator,
}

impl Worker {
    /// Starts the worker. It ends with the process.
    pub fn start(
        room: Room,
        wake: UnixStream,
        admission: Admission,
        calculator: Calculator,
    ) -> io::Result<()> {
        let worker = Self {
            wake,
            admission,
            more_accepted: false,
            room,
            effects: Effects::default(),
            connections: BTreeMap::new(),
            completed: VecDeque::new(),
            processed: 0,
            calculator,
        };
        thread::Builder::new().name("worker".into()).spawn(|| worker.work())?;
        Ok(())
    }

    fn work(mut self) {
        loop {
            self.wait();
            self.collect();
            while self.may_process() {
                let Some((id, input)) = self.completed.pop_front() else { break };
                self.process(id, input);
            }
            self.expire();
            self.admit();
            self.apply_effects();
        }
    }

    /// Sleeps until there is something to do, or the next deadline has come.
    fn wait(&mut self) {
        if self.more_accepted {
            return;
        }
        let now = Instant::now();
        let must_look_again =
            self.admission.is_waiting() || self.connections.values().any(Connection::is_unstarted);
        let next_look = must_look_again.then_some(now + START_RETRY);
        let deadline = [self.room.next_deadline(), next_look].into_iter().flatten().min();
        // Rounded up, because `set_read_timeout` refuses a timeout of zero.
        let timeout =
            deadline.map(|at| at.saturating_duration_since(now) + Duration::from_millis(1));
        let _ = self.wake.set_read_timeout(timeout); // fails only for a timeout of zero
        // A byte, a timeout or EINTR: the worker looks for everything in any case.
        let _ = self.wake.read(&mut [0; 1024]);
    }

    /// Takes back all operations that have completed (5), (7). The signal does not say which.
    fn collect(&mut self) {
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for (&id, connection) in &mut self.connections {
            if let Some(result) = connection.finish_read() {
                reads.push((id, result));
            }
            if let Some(result) = connection.finish_write() {
                writes.push((id, result));
            }
        }
        for (id, result) in reads {
            match result {
                Ok(input) => {
                    self.completed.push_back((id, input));
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.in_progress = true;
                    }
                }
                Err(error) => self.close(id, Some(&error)),
            }
            self.release(id);
        }
        for (id, result) in writes {
            match result {
                Ok(written) => self.write(id, written),
                Err(error) => self.close(id, Some(&error)),
            }
            self.release(id);
        }
        while let Some((job, result)) = self.calculator.take_result() {
            self.room.reply(job.id, &result, &mut self.effects);
            self.completed.push_back((job.id, job.rest));
        }
    }

    /// Returns whether more input may be processed now. See [`INPUT_BUDGET`].
    fn may_process(&mut self) -> bool {
        if self.processed + READ_SIZE <= INPUT_BUDGET {
            return true;
        }
        self.apply_effects();
        if self.connections.values().any(Connection::will_write_soon) {
            return false;
        }
        self.processed = 0;
        true
    }

    /// Processes what was read, and reads on (5).
    fn process(&mut self, id: Id, mut input: Input) {
        let length = input.byte_count();
        trace!("process: {length} bytes of {id}");
        let computation = self.room.process(id, &mut input, Instant::now(), &mut self.effects);
        self.processed += self.effects.take_charge(length - input.byte_count());
        if let Some(computation) = computation {
            return self.calculator.submit(Job { id, computation, rest: input });
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.in_progress = false;
        if mem::take(&mut connection.failed) {
            self.completed.push_back((id, Input::Failure));
        } else if let Input::Bytes(buffer) = input {
            self.read(id, buffer);
        }
        self.release(id);
    }

    fn read(&mut self, id: Id, buffer: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.is_closed() {
            if let Err(error) = connection.start_read(buffer) {
                self.close(id, Some(&error));
            }
        }
    }

    /// Lets the system write the output of a client. Its last write took `written` bytes.
    fn write(&mut self, id: Id, written: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.is_closed() {
            return;
        }
        match self.room.take_output(id, written, &mut connection.output) {
            WriterStep::Write => {
                if let Err(error) = connection.start_write() {
                    self.close(id, Some(&error));
                }
            }
            WriterStep::Wait => connection.free_write_buffer(),
            WriterStep::ShutDown => connection.shut_down_writing(),
            WriterStep::Close => self.close(id, None),
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for id in self.room.expire(now, &mut self.effects) {
            let connection = self.connections.get(&id);
            if connection.is_some_and(|connection| !connection.has_unread_input()) {
                self.room.dismiss(id, now, &mut self.effects);
            }
        }
    }

    /// Lets accepted connections join, while there are places.
    fn admit(&mut self) {
        self.more_accepted = false;
        for _ in 0..MAX_ACCEPTS {
            let Some(client) = self.admission.next(&self.connections) else { return };
            self.join(client);
        }
        self.more_accepted = true;
    }

    fn join(&mut self, mut client: Connection) {
        if let Err(error) = client.start_read(Vec::with_capacity(READ_SIZE)) {
            warn!("{} refused: aio_read: {error}", client.peer);
            return;
        }
        let id = self.room.join(Instant::now(), &mut self.effects);
        self.connections.insert(id, client);
    }

    /// Does what the room asks for.
    fn apply_effects(&mut self) {
        while let Some(id) = self.effects.write.pop() {
            self.write(id, 0);
        }
        while let Some(id) = self.effects.close.pop() {
            self.close(id, None);
        }
    }

    /// Ends what is in flight. An error (a reset, a timeout) is a completion too. The room learns
    /// of it only after the client's earlier input, also if that input waits for a computation.
    fn close(&mut self, id: Id, error: Option<&io::Error>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if error.is_some() && !connection.is_closed() {
            if connection.in_progress {
                connection.failed = true;
            } else {
                self.completed.push_back((id, Input::Failure));
            }
        }
        connection.close(error);
        self.release(id);
    }

    /// Drops a closed connection when no operation and no input of it is left.
    fn release(&mut self, id: Id) {
        if self.connections.get(&id).is_some_and(Connection::is_finished) {
            self.connections.remove(&id);
        }
    }
}
