//! async/await by hand: each connection is a state machine that implements `Future`. The compiler
//! turns an `async fn` into such a machine. The loop of epoll-echo polls the machines.
//!
//! ```text
//!      future of client 8       loop                              kernel
//!                           (1) epoll_wait ────────────────────▶  ┐ wait: until a socket of
//!                           (2) 8 is readable ◀────────────────   ┘ the list is ready
//!  (3) state Reading ◀───────── poll
//!      read(8), write(8) ──────────────────────────────────────▶    copy
//!  (4) Pending ───────────────▶ the next event, or (1)
//! ```
//!
//! How a message travels: (1) One thread waits for all sockets at once. (2) It polls the future of
//! each ready socket. (3) `poll` is a plain function. It continues in the current state: `Reading`
//! reads once and writes once, `Writing` writes once. (4) `Pending` means that the connection has not
//! ended. (5) `Writing` keeps the bytes that the socket did not take, waits for room, and does not
//! read. So each `.await` becomes a state, with the locals that are used after it, and without a stack.
//!
//! The catch: the loop has to know which future to poll. Here it is the future of the ready socket. If
//! a future waits for anything else, it has to tell the loop: that is what the wakers of async-echo do.
//!
//! Run: `cargo run -p async-echo --bin async-echo-states`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/async-echo-states.svg`.
//!
//! Use it when: you want to know what the compiler makes of an `async fn`.
//! Limits: as epoll-echo.
//! Compare with: `diff epoll-echo/src/main.rs async-echo/src/bin/async-echo-states.rs` (a step of the
//! connection becomes a poll), `diff async-echo/src/bin/async-echo-states.rs async-echo/src/main.rs`
//! (the compiler writes the states, and wakers say which future to poll).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::task::{Context, Poll, Waker};
use std::{io, pin::Pin, process::ExitCode, sync::Mutex, time::Duration};

use anyhow::Context as _;
use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, accept, announce};
use common::{exit_on_stop, listen, lock, read, run, write};
use log::{info, trace, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// The most events that one wait returns. Sockets that are left out come first at the next wait.
const MAX_EVENTS: usize = 256;
/// The most connections accepted per iteration, so that a burst does not delay existing clients.
const MAX_ACCEPTS: usize = 64;
/// The longest time between two calls of `accept` while accepting is paused.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The read buffer. All connections share it. A static, because `poll` gets no other arguments.
static BUFFER: Mutex<[u8; BUFFER_SIZE]> = Mutex::new([0; BUFFER_SIZE]);

struct Server {
    listener: TcpListener,
    epoll: Epoll,
    connections: BTreeMap<RawFd, Connection>,
    /// True after `accept` failed, for example for lack of file descriptors. The listener is then
    /// not watched, because the connections in its queue would end every wait at once.
    accept_paused: bool,
}

/// A future that completes at EOF or with an error. It waits only until its socket is ready.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    state: State,
}

/// Where `poll` continues: one state per `.await`.
enum State {
    Reading,
    /// The pending output, and how many of its bytes have been written.
    Writing(Vec<u8>, usize),
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        exit_on_stop()?; // nothing has to be completed before the process ends
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let interest = event(EpollFlags::EPOLLIN, &listener);
        epoll.add(&listener, interest).context("epoll_ctl(ADD, listener)")?;
        announce(address);
        let connections = BTreeMap::new();
        Server { listener, epoll, connections, accept_paused: false }.serve()
    })
}

/// Makes an entry of the interest list. `epoll_wait` returns its user data: the file descriptor.
fn event(interest: EpollFlags, socket: &impl AsFd) -> EpollEvent {
    EpollEvent::new(interest, socket.as_fd().as_raw_fd() as u64)
}

impl Future for Connection {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, state, .. } = self.get_mut();
        match state {
            State::Reading => {
                let mut buffer = lock(&BUFFER);
                let Some(count) = read(stream, &mut buffer[..])? else { return Poll::Pending }; // (3)
                if count == 0 {
                    return Poll::Ready(Ok(())); // EOF. No output is pending here.
                }
                let written = write(stream, &buffer[..count])?;
                if written < count {
                    let pending = buffer[written..count].to_vec();
                    *state = State::Writing(pending, 0); // (5)
                }
            }
            State::Writing(pending, offset) => {
                *offset += write(stream, &pending[*offset..])?;
                if *offset == pending.len() {
                    *state = State::Reading;
                }
            }
        }
        Poll::Pending // (4) without a waker: only for a loop that finds the future by itself
    }
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            let retry = EpollTimeout::try_from(ACCEPT_RETRY)?;
            let timeout = if self.accept_paused { retry } else { EpollTimeout::NONE };
            trace!("wait: epoll_wait"); // (1)
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => &events[..count],
                Err(Errno::EINTR) => continue, // Pitfall: eintr-fatal
                Err(error) => return Err(error).context("epoll_wait"),
            };
            trace!("wait: epoll_wait = {} ready", ready.len()); // (2)
            let mut listener_ready = false;
            for event in ready {
                let fd = event.data() as RawFd;
                if fd == self.listener.as_raw_fd() {
                    listener_ready = true;
                } else {
                    self.on_ready(fd)?;
                }
            }
            // Last: existing clients come first, and closed connections have freed descriptors.
            if listener_ready || self.accept_paused {
                self.accept_some()?;
            }
        }
    }

    /// Polls the future of a connection (3). Then changes the interest if its state has changed (5).
    fn on_ready(&mut self, fd: RawFd) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        let was_reading = matches!(connection.state, State::Reading);
        // The loop finds the future by its socket, so it passes a waker that does nothing.
        match Pin::new(&mut *connection).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending if matches!(connection.state, State::Reading) == was_reading => {
                return Ok(());
            }
            Poll::Pending => {
                let interest = if was_reading { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
                let mut event = event(interest, &connection.stream);
                let changed = self.epoll.modify(&connection.stream, &mut event);
                return changed.context("epoll_ctl(MOD, connection)");
            }
            Poll::Ready(Ok(())) => info!("{} disconnected", connection.peer),
            Poll::Ready(Err(error)) => info!("{} disconnected: {error}", connection.peer),
        }
        self.connections.remove(&fd); // closes the socket
        Ok(())
    }

    fn accept_some(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_ACCEPTS {
            match accept(&self.listener) {
                Accepted::Connection(stream, peer) => {
                    self.set_accept_paused(false)?;
                    self.add(stream, peer)?;
                }
                Accepted::WouldBlock => return self.set_accept_paused(false),
                // Pitfalls: accept-spins, spare-descriptor
                Accepted::Pause => return self.set_accept_paused(true),
            }
        }
        Ok(())
    }

    fn set_accept_paused(&mut self, paused: bool) -> anyhow::Result<()> {
        if paused != self.accept_paused {
            self.accept_paused = paused;
            let interest = if paused { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            let mut event = event(interest, &self.listener);
            self.epoll.modify(&self.listener, &mut event).context("epoll_ctl(MOD, listener)")?;
        }
        Ok(())
    }

    fn add(&mut self, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
        let fd = stream.as_raw_fd();
        if let Err(error) = self.epoll.add(&stream, event(EpollFlags::EPOLLIN, &stream)) {
            // ENOSPC (the user's limit, fs.epoll.max_user_watches) or ENOMEM.
            warn!("{peer} refused: epoll_ctl(ADD): {error}");
            return Ok(());
        }
        stream.set_nonblocking(true)?;
        self.connections.insert(fd, Connection { stream, peer, state: State::Reading });
        Ok(())
    }
}
