//! Which of the accepted connections join the chat, and when.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use aio_echo::can_start_threads;
use common::chat::Id;
use log::warn;

use crate::MAX_CLIENTS;
use crate::connection::Connection;

/// How long a connection waits for a place before it is refused. Meanwhile the worker may learn
/// that other clients have left.
const ADMISSION_TIMEOUT: Duration = Duration::from_millis(500);
/// Threads that are not helpers: the main thread, the worker, the calculator.
const OWN_THREADS: usize = 3;

/// The accepted connections.
pub struct Admission {
    /// `/proc/self/stat`. It is opened once, at the start: later there may be no free file descriptor.
    stat: File,
    accepted: Receiver<Connection>,
    /// The next one, if it waits for a place.
    waiting: Option<Connection>,
}

impl Admission {
    /// # Errors
    /// `/proc` is not mounted, or the process is out of file descriptors.
    pub fn new(accepted: Receiver<Connection>) -> io::Result<Self> {
        Ok(Self { stat: File::open("/proc/self/stat")?, accepted, waiting: None })
    }

    /// Returns whether a connection waits for a place.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Returns the next connection, if it may join now. Refuses those that have waited too long.
    pub fn next(&mut self, connections: &BTreeMap<Id, Connection>) -> Option<Connection> {
        loop {
            let client = match self.waiting.take() {
                Some(client) => client,
                None => self.accepted.try_recv().ok()?,
            };
            let Err(reason) = self.check_place(connections.len()) else { return Some(client) };
            // Closed connections give their places back when what is in flight has completed.
            let is_releasing = connections.values().any(Connection::is_closed);
            if is_releasing || client.accepted.elapsed() < ADMISSION_TIMEOUT {
                self.waiting = Some(client);
                return None;
            }
            warn!("{} refused: {reason}", client.peer);
        }
    }

    /// Returns whether one more client can be served, or why not.
    fn check_place(&self, clients: usize) -> Result<(), String> {
        if clients >= MAX_CLIENTS {
            return Err(format!("{MAX_CLIENTS} clients are connected"));
        }
        // The read of each client occupies a helper, and the writes share at least one more.
        let missing = (clients + 2).saturating_sub(self.helpers());
        if can_start_threads(missing) {
            Ok(())
        } else {
            Err("the system permits no more threads".to_owned())
        }
    }

    /// Returns the number of helper threads that glibc has now.
    fn helpers(&self) -> usize {
        let mut stat = [0; 1024]; // longer than the line
        let count = self.stat.read_at(&mut stat, 0).unwrap_or(0);
        let stat = String::from_utf8_lossy(&stat[..count]);
        // Field 20 is the number of threads. Field 2, a name in parentheses, can contain spaces.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let threads = after_name.split_whitespace().nth(17).and_then(|field| field.parse().ok());
        threads.unwrap_or(0_usize).saturating_sub(OWN_THREADS)
    }
}
