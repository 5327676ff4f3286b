//! The Reactor: the main thread waits for events and hands them on. Workers do what the events
//! allow: they accept, read, process, and write. (Also called half-sync/half-reactor, 半同步/半反应堆.)
//!
//! ```text
//!      main               workers                       kernel
//!  (1) register the listener ───────────────────────▶   interest list
//!  (2) wait ────────────────────────────────────────▶ ┐ wait: for sockets, signals, timeouts
//!  (3) queue ◀──────────────────────────────────────  ┘ A is readable
//!        └──────────▶ (4) read(A) ──────────────────▶   copy
//!                         process the line
//!                         register B for writing ───▶   interest list
//!  (5) wait ────────────────────────────────────────▶ ┐ wait
//!  (6) queue ◀──────────────────────────────────────  ┘ B is writable
//!        └──────────▶ (7) write(B) ─────────────────▶   copy
//! ```
//!
//! How a line travels, in the seven steps of the textbook (游双, Linux 高性能服务器编程): (1) The
//! listener and each client are registered for reading. (2) The main thread waits for all of them
//! at once, and (3) puts what is ready into the request queue. (4) A sleeping worker wakes. It
//! reads, processes the line, and registers each client that gets the line for writing. (5) The
//! main thread waits again, and (6) queues the clients that are writable. (7) A worker writes to
//! each of them everything that is pending, as far as the socket takes it, usually in one call.
//! Under load, this is many lines.
//!
//! A client is disconnected when more than 256 KiB are pending for it. A client that has sent its
//! FIN still gets what is pending, for at most 10 s. When there is no free file descriptor, the
//! server stops accepting for up to 100 ms.
//!
//! The catch: an event is not the data. Between the report and the read, another worker may be busy
//! with the same client. `connection.rs` keeps workers out of each other's connections.
//!
//! Files: the main thread is in this one, and the workers are in `worker.rs`. Between them is the
//! request queue, `queue.rs`.
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
//! Figure: `docs/figures/reactor-chat.svg`.
//!
//! Use it when: processing takes long enough to use several cores. `/factor N` computes on two of
//! the workers at most, with nothing locked, while the third serves the other clients. (The rules
//! of the room run under one lock, and so on one core at a time.)
//! Limits: each event passes from one thread to another, and one-shot interest costs a system call
//! per event. The processing must be worth that.
//! Compare with:
//! - `epoll-echo/src/main.rs`: one thread does everything.
//! - `proactor-chat/src/bin/proactor-chat-simulated.rs`: the main thread copies too, and workers
//!   only process.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
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

/// Two may compute at the same time. The third reads, processes and writes meanwhile.
const WORKERS: usize = 3;

/// Keys of events that are not about a client. The key of a client is its [`Id`], which is not
/// reused: an event that comes late finds no client. (`polling` reserves `usize::MAX`.)
const LISTENER: usize = usize::MAX - 1;
const STOP: usize = usize::MAX - 2;
const TIMER: usize = usize::MAX - 3;

/// What the threads share, as long as the process runs.
///
/// The locks are: `room`, `connections`, the one of the queue, and two in each `Connection`. No
/// thread holds two of them at once, so they cannot deadlock. None is held during a call that can
/// block.
/// Pitfall: lock-while-broadcasting
struct Server {
    listener: TcpListener,
    /// Becomes readable when SIGINT or SIGTERM arrives.
    stop: UnixStream,
    poller: &'static Poller,
    queue: Queue,
    room: Mutex<Room>,
    connections: Mutex<BTreeMap<Id, Arc<Connection>>>,
    /// True after `accept` failed, for example for lack of file descriptors. The listener is then
    /// not armed. If it were, every wait would return at once, because it stays readable.
    accept_paused: AtomicBool,
}

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, idle]| {
        let room = Room::new(chat::parse_idle(&idle)?);
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = stop_socket()?;
        let poller: &'static Poller = Box::leak(Box::new(Poller::new().context("epoll_create1")?));
        let server: &'static Server = Box::leak(Box::new(Server {
            listener,
            stop,
            poller,
            queue: Queue::new(WORKERS, poller),
            room: Mutex::new(room),
            connections: Mutex::default(),
            accept_paused: AtomicBool::new(false),
        }));
        server.register()?;
        for number in 1..=WORKERS {
            Worker::start(server, number).context("cannot start a worker thread")?;
        }
        announce(address);
        server.serve()
    })
}

impl Server {
    fn register(&'static self) -> anyhow::Result<()> {
        // SAFETY: the poller requires that a socket is deleted from it before it is closed. This
        // one is `'static` and never closed.
        unsafe { self.poller.add(&self.stop, Event::readable(STOP)) }
            .context("epoll_ctl(ADD, stop)")?;
        // SAFETY: as above.
        unsafe { self.poller.add(&self.listener, Event::readable(LISTENER)) } // (1)
            .context("epoll_ctl(ADD, listener)")
    }

    /// The main thread.
    fn serve(&self) -> anyhow::Result<()> {
        let mut events = Events::new();
        loop {
            let timeout = self.queue.timeout();
            trace!("wait: Poller::wait"); // (2), (5)
            events.clear();
            self.poller.wait(&mut events, timeout).context("epoll_wait")?; // it retries EINTR
            trace!("wait: Poller::wait = {} ready", events.len());
            if events.iter().any(|event| event.key == STOP) {
                return Ok(()); // ends the process, whatever the workers do
            }
            // Does not wait for the workers. Pitfall: main-waits-for-worker
            self.queue.put(&events); // (3), (6)
        }
    }

    /// Asks for the next event of the listener. Interest is one-shot.
    fn register_listener(&self) -> io::Result<()> {
        self.poller.modify(&self.listener, Event::readable(LISTENER))
    }

    /// Accepts again if accepting is paused: some time has passed, or a connection has been closed.
    fn resume_accepting(&self) -> io::Result<()> {
        if self.accept_paused.swap(false, Ordering::Relaxed) {
            self.register_listener()?;
        }
        Ok(())
    }
}
