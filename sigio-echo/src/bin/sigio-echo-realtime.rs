//! Signal-driven, with real-time signals: they queue, and each names the descriptor that it is
//! about. They are fetched from the queue, one by one, so no handler is needed.
//!
//! ```text
//!      application                              kernel
//!      fcntl(8, F_SETSIG, SIGRTMIN) ─ once ──▶  tell this process, by a signal that queues,
//!      fcntl(8, O_ASYNC) ─────── once ───────▶  of listener, 7, 8, 9 …
//!  (1) sigtimedwait ─────────────────────────▶  ┐
//!        blocked                                │ wait: until something *comes*
//!  (2) SIGRTMIN, si_fd = 8 ◀─────────────────   ┘ a message for 8 has arrived
//!  (3) read(8), write(8) ────────────────────▶    copy
//!  (4) … until nothing is left ──────────────▶    what is left unread is never signalled again
//! ```
//!
//! A message: (1) the thread waits for the next signal; (2) it takes what is queued and notes whom
//! it names: they are *ready*, and the *copy* is still the process's own; (3) it copies, one step
//! for each that is noted, (4) round by round until nothing is left; these rounds do not block.
//! (5) The queue is bounded (`RLIMIT_SIGPENDING`, one for all processes of a user). Where it is
//! full, the kernel sends SIGIO, which names nobody: everybody may be ready. Either is a hint: by
//! the time it is taken, the bytes may have been read, or the descriptor be another connection's.
//!
//! Run: `cargo run -p sigio-echo --bin sigio-echo-realtime`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/sigio-echo-realtime.svg`.
//!
//! Use it when: you keep a program from before epoll, which was made to replace this.
//! Limits: Linux only. A signal an event, and a call to fetch each: with 64 busy connections 3.0
//! system calls a message for `epoll-echo`'s 2.0, and the same CPU. Idle ones cost none
//! (docs/benchmarks: 64 active, what idle connections add).
//! Compare with: `diff sigio-echo/src/main.rs sigio-echo/src/bin/sigio-echo-realtime.rs` (which
//! socket), `diff epoll-echo/src/bin/epoll-echo-edge.rs sigio-echo/src/bin/sigio-echo-realtime.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{self, MaybeUninit};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::ptr;

use common::{
    Accepted, BUFFER_SIZE, Connection, ECHO_ADDR, Progress, accept, announce, listen, run,
};
use libc::{SIGINT, SIGIO, SIGRTMIN, SIGTERM, c_int, c_long, siginfo_t, timespec};
use log::{trace, warn};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getpid;

/// Signals taken from the queue at once: however fast it fills, the sockets get their turn.
const SIGNALS: usize = 256;
/// Connections accepted at once, so that a crowd at the door does not keep the others waiting.
const ACCEPTS: usize = 64;
/// Until `accept` is tried again while descriptors are short.
const RETRY: timespec = timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const NOW: timespec = timespec { tv_sec: 0, tv_nsec: 0 };

/// fcntl(2): the signal to send instead of SIGIO. The libc crate does not have it.
const F_SETSIG: c_int = 10;

/// sigaction(2): how `siginfo_t` begins where the signal is about a descriptor.
#[repr(C)]
struct PollInfo {
    signo_errno_code: [c_int; 3],
    band: c_long,
    fd: c_int,
}

struct Server {
    listener: TcpListener,
    /// What to wait for.
    signals: SigSet,
    connections: BTreeMap<RawFd, Connection>,
    /// Who may have something left to copy.
    ready: BTreeSet<RawFd>,
    /// Somebody may still wait to be accepted: no signal will say so again.
    incoming: bool,
    /// Out of descriptors.
    starved: bool,
    /// Where a step of the copy keeps its bytes: shared, for no connection leaves any in it.
    buffer: Vec<u8>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // Blocked for good, so that they queue.
        let mut signals = SigSet::all();
        // nix has no names for the real-time ones: without those that it can name, they are left.
        Signal::iterator().for_each(|named| signals.remove(named));
        signals.extend([Signal::SIGIO, Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        arm(&listener)?;
        let (connections, ready, buffer) = (BTreeMap::new(), BTreeSet::new(), vec![0; BUFFER_SIZE]);
        // Somebody may have come before the listener was armed.
        let (incoming, starved) = (true, false);
        Server { listener, signals, connections, ready, incoming, starved, buffer }.serve()
    })
}

/// From now on signals tell this process of what comes to `socket`, which does not block.
fn arm(socket: &impl AsRawFd) -> nix::Result<()> {
    let owner = (libc::F_SETOWN, getpid().as_raw()); // without one, the signal goes to nobody
    let signal = (F_SETSIG, SIGRTMIN());
    let flags = (libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    for (command, argument) in [owner, signal, flags] {
        // SAFETY: these commands take a number and touch no memory.
        Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), command, argument) })?;
    }
    Ok(())
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let more = !self.ready.is_empty() || self.incoming && !self.starved; // (4)
            let mut timeout = if more { Some(&NOW) } else { self.starved.then_some(&RETRY) };
            trace!("wait: sigtimedwait"); // (1)
            for _ in 0..SIGNALS {
                // The lowest number comes first: SIGTERM never waits behind the queue.
                match self.next_signal(timeout)? {
                    (0, _) => break,
                    (SIGINT | SIGTERM, _) => return Ok(()),
                    (SIGIO, _) => self.note_all(), // (5)
                    (_, fd) if fd == self.listener.as_raw_fd() => self.incoming = true,
                    (_, fd) => drop(self.ready.insert(fd)), // (2)
                }
                timeout = Some(&NOW);
            }
            trace!("wait: sigtimedwait = {} may be ready", self.ready.len());

            for fd in mem::take(&mut self.ready) {
                self.go_on(fd);
            }
            // Last: what has closed above has left descriptors for these.
            if self.incoming {
                self.accept_some()?;
            }
        }
    }

    /// The number of the next signal and the descriptor it names; number 0 if none comes in time.
    fn next_signal(&self, timeout: Option<&timespec>) -> nix::Result<(c_int, RawFd)> {
        let mut info = MaybeUninit::<siginfo_t>::zeroed();
        let (set, at) = (self.signals.as_ref(), timeout.map_or(ptr::null(), ptr::from_ref));
        // SAFETY: the set and the time-out are only read; `info` has room for what is written.
        match Errno::result(unsafe { libc::sigtimedwait(set, info.as_mut_ptr(), at) }) {
            // SAFETY: `info` was zeroed first, so all of it is initialised; it is the larger one.
            Ok(signal) => Ok((signal, unsafe { info.as_ptr().cast::<PollInfo>().read() }.fd)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok((0, -1)),
            Err(error) => Err(error),
        }
    }

    fn note_all(&mut self) {
        // What is still queued says no more than this. To ignore a signal empties its queue.
        for action in [libc::SIG_IGN, libc::SIG_DFL] {
            // SAFETY: no handler is installed.
            unsafe { libc::signal(SIGRTMIN(), action) };
        }
        self.ready.extend(self.connections.keys());
        self.incoming = true;
    }

    /// One step of the copy (3). The signal's `si_code` said what came then; this says what is so.
    fn go_on(&mut self, fd: RawFd) {
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        match connection.step(&mut self.buffer) {
            Progress::Echoed(_) => drop(self.ready.insert(fd)),
            // A signal will tell: of a write, because it has just found no room.
            Progress::WantRead | Progress::WantWrite => {}
            Progress::Closed => drop(self.connections.remove(&fd)),
        }
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        self.starved = false;
        for _ in 0..ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => self.add(Connection::new(stream, peer)?),
                Accepted::WouldBlock => {
                    self.incoming = false;
                    break;
                }
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => {
                    self.starved = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, connection: Connection) {
        let fd = connection.as_raw_fd();
        match arm(&connection) {
            Ok(()) => drop(self.connections.insert(fd, connection)),
            // The kernel is out of memory.
            Err(error) => warn!("descriptor {fd} refused: {error}"),
        }
        self.ready.insert(fd); // it may have sent already; pitfall: before-o-async
    }
}
