//! The Reactor: the main thread waits for events, and does nothing else; workers do what the
//! events ask for: accept, read, handle, write.
//!
//! ```text
//!      main               workers                       kernel
//!  (1) register the listener ───────────────────────▶   interest list
//!  (2) wait ────────────────────────────────────────▶ ┐ wait: for sockets, signals, timers
//!  (3) queue ◀──────────────────────────────────────  ┘ 8 is readable
//!        └──────────▶ (4) read(8) ──────────────────▶   copy
//!                         handle the line
//!                         register 9, to write ─────▶   interest list
//!  (5) wait ────────────────────────────────────────▶ ┐ wait
//!  (6) queue ◀──────────────────────────────────────  ┘ 9 is writable
//!        └──────────▶ (7) write(9) ─────────────────▶   copy
//! ```
//!
//! A line: (1) the listener and each client are registered, to be read from; (2) the main thread
//! waits for everything at once, and (3) puts what is ready into the request queue; (4) a sleeping
//! worker wakes, reads, handles the line, and registers each client that is to get it, to be
//! written to; (5) the main thread waits, and (6) queues those that are writable; (7) a worker
//! writes to each, in one call, all that has gathered for it: under load that is many lines.
//!
//! This file is the main thread, and `worker.rs` the workers. Between them is the request queue,
//! `queue.rs`; and `connection.rs` keeps two workers out of one connection.
//!
//! Run: `cargo run -p reactor-chat`
//!
//! ```text
//! $ nc 127.0.0.1 7001
//! * you are guest2; 1 other here; /help lists the commands
//! hello
//! guest1: hi there
//! ```
//!
//! Drawn from a trace: `docs/figures/reactor-chat.svg`.
//!
//! Use it when: handling takes long enough to want several cores, or may block.
//! Limits: an event crosses from thread to thread, and interest is one-shot, a system call each
//! time: the handling has to be worth that.
//! Compare with: `epoll-echo/src/main.rs` (one thread that does everything),
//! `proactor-chat/src/bin/proactor-chat-simulated.rs` (the main thread copies, workers handle).

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use common::chat::{self, Id, Room};
use common::{CHAT_ADDR, IDLE, announce, listen, run, stop_socket};
use log::trace;
use polling::{Event, Events, Poller};

mod connection;
mod queue;
mod worker;
use connection::Connection;
use queue::Queue;
use worker::Worker;

/// Two can copy while a third handles a line; no two handle at once, as the room has one lock.
const WORKERS: usize = 3;

/// Keys of the events that are about no client. A client's key is its [`Id`], which is never used
/// again: an event that comes late finds nobody. (`polling` keeps `usize::MAX` for itself.)
const LISTENER: usize = usize::MAX - 1;
const STOP: usize = usize::MAX - 2;
const TIMER: usize = usize::MAX - 3;

/// What the threads share, for as long as the process runs.
///
/// No thread holds two locks at once (these, the queue's and a connection's are all there are):
/// there is no order in which they could deadlock. None is held across a call that can block.
/// Pitfall: lock-while-broadcasting.
struct Server {
    poller: &'static Poller,
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    queue: Queue,
    room: Mutex<Room>,
    connections: Mutex<BTreeMap<Id, Arc<Connection>>>,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Mutex::new(Room::new(chat::idle(&idle)?));
        let stop = stop_socket()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let poller: &'static Poller = Box::leak(Box::new(Poller::new()?));
        let (queue, connections) = (Queue::new(WORKERS, poller), Mutex::default());
        let server = Server { poller, listener, stop, queue, room, connections };
        let server: &'static Server = Box::leak(Box::new(server));
        (1..=WORKERS).try_for_each(|n| Worker::start(server, n))?;
        server.serve()
    })
}

impl Server {
    /// The main thread.
    fn serve(&'static self) -> anyhow::Result<()> {
        // SAFETY: what is added must be deleted before it is dropped; `'static` is never dropped.
        unsafe { self.poller.add(&self.stop, Event::readable(STOP)) }?;
        // SAFETY: likewise.
        unsafe { self.poller.add(&self.listener, Event::readable(LISTENER)) }?; // (1)
        let mut events = Events::new();
        loop {
            let timeout = self.queue.timeout();
            trace!("wait: Poller::wait"); // (2), (5)
            events.clear();
            self.poller.wait(&mut events, timeout)?;
            trace!("wait: Poller::wait = {} ready", events.len());
            if events.iter().any(|event| event.key == STOP) {
                return Ok(()); // and the process ends, whatever the workers are at
            }
            // Does not wait for the workers. Pitfall: main-waits-for-worker
            self.queue.put(&events); // (3), (6)
        }
    }

    fn register_listener(&self) -> io::Result<()> {
        self.poller.modify(&self.listener, Event::readable(LISTENER))
    }
}
