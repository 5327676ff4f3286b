//! The table of callbacks: many calls wait on one connection at the same time.
//!
//! The numbers (1) to (6) are the steps in the header of `src/bin/callback.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::lock;
use log::error;

use crate::deadline::eagain_is_timeout;
use crate::worker::{MAX_IN_FLIGHT, MAX_REQUEST};
use crate::{connect, read_line};

/// Bytes that an ID and the line end can add to a request.
const ID_SIZE: usize = 24;

/// What is done with an answer, or with the reason why there is none.
pub type Callback = Box<dyn FnOnce(io::Result<String>) + Send>;

#[derive(Default)]
struct Table {
    /// The callbacks by ID, with their deadlines. IDs and deadlines have the same order.
    waiting: BTreeMap<u64, (Instant, Callback)>,
    /// Requests that the writer thread has not sent yet.
    unsent: VecDeque<String>,
    last_id: u64,
    /// Why the connection was lost or closed. `None` while it is open.
    lost: Option<String>,
}

/// What the caller and its three threads share.
struct Shared {
    table: Mutex<Table>,
    /// Notified after each change of the table, for the writer and the timer.
    changed: Condvar,
    stream: TcpStream,
    /// How long a call waits for its answer.
    timeout: Duration,
}

/// A connection on which many calls wait at the same time. Dropping it closes the connection.
pub struct Caller(Arc<Shared>);

impl Caller {
    /// Connects. Each call then waits at most `timeout` for its answer. An answer for which no
    /// callback waits is passed to `on_late`.
    ///
    /// # Errors
    /// The server does not accept the connection within `timeout`, or a thread cannot be started.
    pub fn connect(
        addr: &str,
        timeout: Duration,
        on_late: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let stream = connect(addr, Instant::now() + timeout)?;
        stream.set_write_timeout(Some(timeout))?;
        let shared = Shared { table: Mutex::default(), changed: Condvar::new(), stream, timeout };
        // If a thread cannot be started, `caller` is dropped, which ends the threads that run.
        let caller = Self(Arc::new(shared));
        let [reader, writer, timer] = [&caller.0, &caller.0, &caller.0].map(Arc::clone);
        thread::Builder::new().spawn(move || reader.read_answers(on_late))?;
        thread::Builder::new().spawn(move || writer.write_requests())?;
        thread::Builder::new().spawn(move || timer.expire())?;
        Ok(caller)
    }

    /// Sends a request, and returns its ID at once. `callback` will be called exactly once, on
    /// another thread. While it runs, its thread holds no lock of this file, so the callback may
    /// use the `Caller`.
    ///
    /// # Errors
    /// The connection is lost, too many calls are waiting, or the request is not one short line.
    /// `callback` will then not be called.
    pub fn call(&self, request: &str, callback: Callback) -> io::Result<u64> {
        if request.contains(char::is_control) || request.len() > MAX_REQUEST - ID_SIZE {
            let reason = "a request must be one line of at most 4072 bytes";
            return Err(io::Error::new(ErrorKind::InvalidInput, reason));
        }
        let mut table = lock(&self.0.table);
        if let Some(reason) = &table.lost {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, reason.clone()));
        }
        if table.waiting.len().max(table.unsent.len()) >= MAX_IN_FLIGHT {
            return Err(io::Error::new(ErrorKind::QuotaExceeded, "too many calls are waiting"));
        }
        table.last_id += 1;
        let id = table.last_id;
        table.waiting.insert(id, (Instant::now() + self.0.timeout, callback)); // (1)
        table.unsent.push_back(format!("{id} {request}\n"));
        self.0.changed.notify_all();
        Ok(id)
    }

    /// Closes the connection. The callbacks that are left are called with an error (5).
    pub fn close(&self) {
        self.0.lose("the caller has closed the connection");
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Ends all three threads. If this is called several times, the first reason is kept.
    fn lose(&self, reason: &str) {
        lock(&self.table).lost.get_or_insert_with(|| reason.to_owned());
        self.changed.notify_all();
        let _ = self.stream.shutdown(Shutdown::Both); // `read` returns 0 in the reader
    }

    fn write_requests(&self) {
        let is_idle = |table: &mut Table| table.unsent.is_empty() && table.lost.is_none();
        loop {
            let table = self.changed.wait_while(lock(&self.table), is_idle);
            let mut table = table.unwrap_or_else(PoisonError::into_inner);
            let request = table.unsent.pop_front().filter(|_| table.lost.is_none());
            drop(table);
            let Some(request) = request else { return };
            let sent = (&self.stream).write_all(request.as_bytes());
            if let Err(error) = sent.map_err(eagain_is_timeout) {
                return self.lose(&format!("cannot send: {error}")); // (2) failed
            }
        }
    }

    fn read_answers(&self, on_late: impl Fn(&str)) {
        let mut input = BufReader::new(&self.stream);
        let reason = loop {
            let answer = match read_line(&mut input, MAX_REQUEST) {
                Ok(Some(answer)) => answer,
                Ok(None) => break "the server closed the connection".to_owned(),
                Err(error) => break format!("{error:#}"),
            };
            let Some((id, text)) = answer.split_once(' ') else {
                break format!("invalid answer {answer:?}");
            };
            let id = id.parse::<u64>().ok();
            let entry = id.and_then(|id| lock(&self.table).waiting.remove(&id));
            match entry {
                Some((_, callback)) => isolate(|| callback(Ok(text.to_owned()))), // (3)
                None => isolate(|| on_late(&answer)),                             // (6)
            }
        };
        self.lose(&reason);
        let mut table = lock(&self.table);
        let reason = table.lost.clone().unwrap_or_default();
        let waiting = std::mem::take(&mut table.waiting);
        drop(table);
        for (_, callback) in waiting.into_values() {
            let error = io::Error::new(ErrorKind::ConnectionAborted, reason.clone());
            isolate(|| callback(Err(error))); // (5)
        }
    }

    fn expire(&self) {
        let mut table = lock(&self.table);
        while table.lost.is_none() {
            let due = table.waiting.values().next().map(|(due, _)| *due);
            let left =
                due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let oldest = table.waiting.pop_first();
                drop(table);
                if let Some((_, (_, callback))) = oldest {
                    isolate(|| callback(Err(ErrorKind::TimedOut.into()))); // (4)
                }
                table = lock(&self.table);
            } else {
                let woken = self.changed.wait_timeout(table, left);
                table = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// Calls `callback`. A panic in it must not end this thread, because later calls need the thread.
fn isolate(callback: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        error!("a callback panicked");
    }
}
