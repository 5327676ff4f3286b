//! A client's connection, and what it waits for.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use common::chat::{Id, Output};
use common::lock;
use log::trace;
use polling::{Event, Poller};

/// A registered connection. It is closed when the map, the queue and all workers have dropped it.
pub struct Connection {
    pub id: Id,
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// Output taken from the room. Only the worker that has claimed the connection uses it.
    pub output: Mutex<Output>,
    state: Mutex<State>,
    poller: &'static Poller,
}

/// What a connection waits for, and whether a worker is busy with it.
///
/// Registration is one-shot: it asks for one event. This alone does not keep two workers out of one
/// connection. Example: worker 1 is about to read from client A. Worker 2 has a line for A and
/// registers A for writing. This arms the event for reading too, and worker 3 reads from A as well.
/// Pitfall: one-shot-rearmed
///
/// Therefore a worker *claims* the connection of its event first:
/// - If another worker has claimed it, the event is dropped.
/// - While it is claimed, changes of `read` and `write` are stored and not registered.
/// - When the worker releases it, the interest is registered. The poller then reports everything
///   that is ready at this moment, which includes the reason of an event that was dropped.
///
/// So one worker at a time reads a client's lines, and no event is lost.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "they change independently of one another")]
pub struct State {
    pub claimed: bool,
    /// A computation is queued or running, or the input after it is not yet processed. The client's
    /// next lines must wait, so the connection may be claimed for writing only.
    pub computing: bool,
    /// The client has not sent its FIN.
    pub read: bool,
    /// Output is pending.
    pub write: bool,
}

impl Connection {
    /// Makes the socket non-blocking, and adds it to the poller without any interest yet.
    pub fn new(
        stream: TcpStream,
        peer: SocketAddr,
        id: Id,
        poller: &'static Poller,
    ) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        // SAFETY: `drop` deletes the socket from the poller before it is closed.
        unsafe { poller.add(&stream, Event::none(id.0 as usize)) }?;
        let state = State { claimed: false, computing: false, read: true, write: false };
        Ok(Arc::new(Self {
            id,
            stream,
            peer,
            output: Mutex::default(),
            state: Mutex::new(state),
            poller,
        }))
    }

    /// Claims the connection for a read. Returns false if a worker is busy with it.
    pub fn claim_for_read(&self) -> bool {
        let mut state = lock(&self.state);
        let is_free = !state.claimed && !state.computing;
        if is_free {
            state.claimed = true;
        }
        is_free
    }

    /// Claims the connection for a write. Returns false if a worker has claimed it.
    pub fn claim_for_write(&self) -> bool {
        let mut state = lock(&self.state);
        let is_free = !state.claimed;
        state.claimed = true;
        is_free
    }

    /// Returns whether a worker has claimed the connection, or a computation for it is queued or
    /// running, or the input after it is not yet processed.
    pub fn is_busy(&self) -> bool {
        let state = lock(&self.state);
        state.claimed || state.computing
    }

    /// Changes the state, and registers the interest that follows from it, unless the connection is
    /// claimed.
    ///
    /// No other function registers interest, and this one does it under the lock. So the poller
    /// has the interest that was set last, unless the connection is claimed.
    pub fn update(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut guard = lock(&self.state);
        change(&mut guard);
        let State { claimed, computing, read, write } = *guard;
        if claimed {
            return Ok(());
        }
        let read = read && !computing;
        self.poller.modify(&self.stream, Event::new(self.id.0 as usize, read, write))?;
        drop(guard);
        trace!("wait: register({}): read {read}, write {write}", self.stream.as_raw_fd());
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It does not fail for a socket that was added.
        let _ = self.poller.delete(&self.stream);
    }
}
