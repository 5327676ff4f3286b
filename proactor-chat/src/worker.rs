//! The worker: it handles what is complete, and says what the system is to do next.
//!
//! There is one, as there is one room: a second one would wait for the first.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use common::chat::{Effects, Id, Owed, READ, Room, UNDER_WAY};
use log::{debug, info, trace, warn};
use nix::sys::signal::SigSet;

use crate::connection::{COMPLETED, Connection};

/// Clients let in at once, so that a crowd at the door does not keep the others waiting.
const WELCOMES: usize = 64;

/// All that there is to handle: the worker's own. Nothing is shared, and nothing is locked.
pub struct Worker {
    /// Readable: something has completed, or somebody has arrived.
    hints: UnixStream,
    arrivals: Receiver<Connection>,
    room: Room,
    effects: Effects,
    connections: BTreeMap<Id, Connection>,
    /// Reads that are complete and not handled yet.
    completed: VecDeque<(Id, io::Result<usize>)>,
    /// Bytes that have been handled, and not been offered as lines to everybody's socket.
    under_way: usize,
}

impl Worker {
    /// Starts it; it ends with the process.
    pub fn start(room: Room, hints: UnixStream, arrivals: Receiver<Connection>) -> io::Result<()> {
        let worker = Self {
            hints,
            arrivals,
            room,
            effects: Effects::default(),
            connections: BTreeMap::new(),
            completed: VecDeque::new(),
            under_way: 0,
        };
        thread::Builder::new().name("worker".into()).spawn(|| worker.work()).map(drop)
    }

    fn work(mut self) {
        // The signal is the main thread's. (This fails only for arguments that it does not know.)
        let _ = SigSet::from(COMPLETED).thread_block();
        let mut crowd = false;
        loop {
            if !crowd {
                self.wait();
            }
            crowd = self.welcome();
            self.collect();
            while let Some((id, result)) = self.next() {
                self.handle(id, result);
            }
            self.room.expire(Instant::now(), &mut self.effects);
            self.follow_up();
        }
    }

    /// Lets in some of those who have arrived; `true` if there may be more.
    fn welcome(&mut self) -> bool {
        for _ in 0..WELCOMES {
            let Ok(mut connection) = self.arrivals.try_recv() else { return false };
            // (1)
            if let Err(error) = connection.read() {
                warn!("{} refused: {error}", connection.peer);
                continue;
            }
            let id = self.room.join(Instant::now(), &mut self.effects);
            self.connections.insert(id, connection);
        }
        true
    }

    /// Sleeps until there is a hint, or somebody's time is over.
    fn wait(&mut self) {
        // A millisecond late: no time at all would be for ever.
        let in_time = |at| Duration::from_millis(1) + (at - Instant::now());
        let _ = self.hints.set_read_timeout(self.room.next_expiry().map(in_time));
        // A hint, or none, or an interruption: what there is to do is looked for.
        let _ = self.hints.read(&mut [0; 1024]);
    }

    /// Takes back all that has completed, which the signal does not say.
    fn collect(&mut self) {
        let mut written = Vec::new();
        for (&id, connection) in &mut self.connections {
            self.completed.extend(connection.has_read().map(|result| (id, result)));
            written.extend(connection.has_written().map(|result| (id, result)));
        }
        for (id, result) in written {
            match result {
                Ok(sent) => self.write(id, sent), // (7)
                Err(error) => self.lose(id, &error),
            }
        }
    }

    /// A completed read to handle, if there is one, and it may be handled now.
    fn next(&mut self) -> Option<(Id, io::Result<usize>)> {
        if self.under_way + READ > UNDER_WAY {
            // First what has been handled goes to everybody; then more is handled.
            self.follow_up();
            if self.connections.values().any(Connection::is_prompt) {
                return None;
            }
            self.under_way = 0;
        }
        self.completed.pop_front()
    }

    /// A client's read is complete (5).
    fn handle(&mut self, id: Id, result: io::Result<usize>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(bytes) = connection.reader.buffer() else { return };
        trace!("handle: {} bytes of {id}", bytes.len());
        match result {
            _ if connection.closed => self.close(id),
            Ok(0) => self.room.end(id, Instant::now(), &mut self.effects),
            Ok(count) => {
                self.under_way += count;
                self.room.input(id, bytes, Instant::now(), &mut self.effects);
                if let Err(error) = connection.read() {
                    self.lose(id, &error);
                }
            }
            Err(error) => self.lose(id, &error),
        }
    }

    /// Has all written that waits for a client, of which `sent` bytes are gone.
    fn write(&mut self, id: Id, sent: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(lines) = connection.writer.buffer() else { return };
        match self.room.owed(id, sent, lines) {
            Owed::Lines => {
                if let Err(error) = connection.write() {
                    self.lose(id, &error);
                }
            }
            Owed::Nothing => *lines = Vec::new(),
            Owed::Close => self.close(id),
        }
    }

    /// Does what follows from what the room was told.
    fn follow_up(&mut self) {
        while let Some(id) = self.effects.write.pop() {
            self.write(id, 0);
        }
        while let Some(id) = self.effects.close.pop() {
            self.close(id);
        }
    }

    /// A connection has failed (`ECONNRESET`, `EPIPE`, a time-out).
    fn lose(&mut self, id: Id, error: &io::Error) {
        debug!("{id}: {error}");
        self.room.leave(id, &mut self.effects);
        self.close(id);
    }

    /// Ends what is in flight, and closes when that has come back.
    fn close(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.closed {
            info!("{} left", connection.peer);
            connection.shut_down();
        }
        if !connection.is_in_flight() {
            self.connections.remove(&id);
        }
    }
}
