//! A client's connection, and what it waits for.

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use common::chat::Id;
use common::lock;
use log::{info, trace};
use polling::{Event, Poller};

/// Open, and known to the poller, until the last worker lets go of it.
pub struct Connection {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub id: Id,
    interest: Mutex<Interest>,
    poller: &'static Poller,
}

/// What a connection waits for. To register it is to ask for one event.
///
/// That alone does not keep two workers out of one connection: whoever has a line for a client
/// registers it for writing, while an event of it may be under way to be read (pitfall:
/// one-shot-rearmed). Hence `held`:
/// - A worker with an event takes the connection in hand; where another worker has it in hand, it
///   forgets the event.
/// - While it is held nothing is registered, only noted; as it is let go that is registered, and
///   the poller reports whatever is the case then, forgotten events included.
///
/// So one worker after the other reads a client's lines, and no readiness is lost.
pub struct Interest {
    pub held: bool,
    pub read: bool,
    pub write: bool,
}

impl Connection {
    /// Waits to be read from; nothing is registered yet.
    pub fn new(
        stream: TcpStream,
        peer: SocketAddr,
        id: Id,
        poller: &'static Poller,
    ) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        // SAFETY: it is deleted from the poller before it is closed: in `drop`.
        unsafe { poller.add(&stream, Event::none(id.0 as usize)) }?;
        let interest = Mutex::new(Interest { held: false, read: true, write: false });
        Ok(Arc::new(Self { stream, peer, id, interest, poller }))
    }

    /// Takes it in hand; `false` where another worker has it.
    pub fn hold(&self) -> bool {
        !mem::replace(&mut lock(&self.interest).held, true)
    }

    /// The only place where interest changes and is registered, both under the lock: what was said
    /// last is what the poller knows.
    pub fn register(&self, change: impl FnOnce(&mut Interest)) -> io::Result<()> {
        let mut interest = lock(&self.interest);
        change(&mut interest);
        let Interest { held, read, write } = *interest;
        if held {
            return Ok(());
        }
        self.poller.modify(&self.stream, Event::new(self.id.0 as usize, read, write))?;
        drop(interest); // who reads the log may be slow
        trace!("wait: register({}): read {read}, write {write}", self.stream.as_raw_fd());
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.poller.delete(&self.stream); // of what was added, it does not fail
        info!("{} left", self.peer);
    }
}
