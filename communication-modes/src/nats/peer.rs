//! A client of the broker, and the output that is pending for it.
//!
//! The numbers (4) and (5) are the steps in the header of `src/bin/publish-subscribe.rs`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use common::lock;
use log::warn;

/// Pending output in bytes, above which publishers wait for the client. It is the default of NATS.
const MAX_PENDING: usize = 64 << 20;
/// How long publishers wait while nothing can be sent to the client.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one write may wait until the client receives something.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that are sent with one call.
const BATCH: usize = 64 * 1024;

/// A client of the broker. Publishers append to its outbox, and one thread sends what is in it.
#[derive(Debug)]
pub struct Peer {
    addr: SocketAddr,
    stream: Arc<TcpStream>,
    outbox: Mutex<Outbox>,
    /// Notified after each change of the outbox, for the sender and for waiting publishers.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: VecDeque<u8>,
    /// Bytes that the sender has taken but not yet sent.
    in_flight: usize,
    /// Bytes that have been sent in all.
    sent: u64,
    closed: bool,
}

impl Outbox {
    fn has_room(&self) -> bool {
        self.closed || self.bytes.len() + self.in_flight <= MAX_PENDING
    }
}

impl Peer {
    /// Makes a client with an empty outbox.
    ///
    /// # Errors
    /// The client has already disconnected.
    pub fn new(stream: &Arc<TcpStream>) -> io::Result<Self> {
        stream.set_write_timeout(Some(SEND_TIMEOUT))?;
        let (addr, stream) = (stream.peer_addr()?, Arc::clone(stream));
        Ok(Self { addr, stream, outbox: Mutex::default(), changed: Condvar::new() })
    }

    /// Returns the connection.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Appends a message, which is given in parts. Never waits.
    pub fn push(&self, parts: &[&[u8]]) {
        let mut outbox = lock(&self.outbox);
        if outbox.closed {
            return;
        }
        for part in parts {
            outbox.bytes.extend(*part);
        }
        drop(outbox);
        self.changed.notify_all();
    }

    /// Waits until at most 64 MiB are pending (5): this is the backpressure. A publisher calls it
    /// after `push`, so each publisher can exceed the limit by one message.
    ///
    /// If the next batch cannot be sent to the client within 2 s, it is disconnected.
    pub fn wait_for_room(&self) {
        let mut outbox = lock(&self.outbox);
        while !outbox.has_room() {
            let sent = outbox.sent;
            let is_stuck = |outbox: &mut Outbox| !outbox.has_room() && outbox.sent == sent;
            let result = self.changed.wait_timeout_while(outbox, STALL_TIMEOUT, is_stuck);
            let (next, timeout) = result.unwrap_or_else(PoisonError::into_inner);
            outbox = next;
            if timeout.timed_out() {
                warn!(
                    "{} is too slow: 64 MiB are pending, and it did not take the next 64 KiB within 2 s",
                    self.addr
                );
                self.disconnect(&mut outbox);
            }
        }
    }

    /// Sends what is in the outbox (4), until it is closed and empty.
    pub fn send_pending(&self) {
        while let Some(bytes) = self.take() {
            if let Err(error) = (&*self.stream).write_all(&bytes) {
                if error.kind() == ErrorKind::WouldBlock {
                    warn!("{} is too slow: nothing could be sent for 10 s", self.addr); // SO_SNDTIMEO
                }
                self.disconnect(&mut lock(&self.outbox));
            }
        }
    }

    /// Waits for output, and takes some of it. The caller has sent the bytes that it took before.
    ///
    /// Returns `None` when the outbox is closed and empty.
    fn take(&self) -> Option<Vec<u8>> {
        let mut outbox = lock(&self.outbox);
        outbox.sent += outbox.in_flight as u64;
        outbox.in_flight = 0;
        self.changed.notify_all();
        let is_idle = |outbox: &mut Outbox| outbox.bytes.is_empty() && !outbox.closed;
        let outbox = self.changed.wait_while(outbox, is_idle);
        let mut outbox = outbox.unwrap_or_else(PoisonError::into_inner);

        let (front, _) = outbox.bytes.as_slices(); // is empty only if the queue is
        let batch = front[..front.len().min(BATCH)].to_vec();
        outbox.bytes.drain(..batch.len());
        if outbox.bytes.is_empty() {
            outbox.bytes = VecDeque::new(); // frees the memory
        }
        outbox.in_flight = batch.len();
        (!batch.is_empty()).then_some(batch)
    }

    /// Accepts no more output. Pending output is still sent.
    pub fn close(&self) {
        lock(&self.outbox).closed = true;
        self.changed.notify_all();
    }

    /// Discards the outbox, and shuts the connection down. The threads that read from it and write
    /// to it then get an error, and end.
    fn disconnect(&self, outbox: &mut Outbox) {
        outbox.closed = true;
        outbox.bytes = VecDeque::new();
        self.changed.notify_all();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
