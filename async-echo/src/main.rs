//! async/await: each connection is an `async fn`, which reads like a blocking server. The compiler
//! turns it into a state machine, and one thread runs all of these machines, on epoll.
//!
//! ```text
//!      task of client 8         executor and reactor              kernel
//!  (1) ready(8).await ───────▶  keep the waker of the task
//!        suspended          (2) epoll_wait ────────────────────▶  ┐ wait: until a socket of
//!        suspended          (3) wake: into the run queue ◀─────   ┘ the list is ready
//!        continues ◀─────── (4) poll
//!  (5) read(8), write(8) ──────────────────────────────────────▶    copy
//! ```
//!
//! How a message travels: (1) The task awaits its socket. The future stores the task's waker and is
//! pending, so `poll` returns. (2) When no task can run, the thread sleeps. (3) The reactor wakes the
//! tasks whose sockets are ready: a waker puts its task into the run queue. (4) The executor polls
//! the task, which continues after its `.await`. (5) It reads once and writes once. (6) Bytes that
//! the socket does not take are pending output. The task awaits room, then reads again.
//!
//! Where it waits: an `.await` suspends the task only. The thread sleeps in `epoll_wait`, for all tasks
//! at once. In POSIX's terms this is synchronous I/O, because the thread itself copies (5). With
//! `async-echo-uring` the data is already copied when the task continues: that is asynchronous I/O.
//!
//! The catch: a task lets others run only where an `.await` is pending. So it must not block, and it
//! awaits before each step, even if there is more data. Pitfall: blocking-in-task
//!
//! Run: `cargo run -p async-echo`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/async-echo.svg`.
//!
//! Use it when: you want to see an executor, a reactor and wakers at work. (Use tokio for your own.)
//! Limits: Linux only. One thread.
//! Compare with: `async-echo/src/bin/async-echo-states.rs` (the states by hand: `Reading` is the await
//! of (1), `Writing` that of (6)), `blocking-echo/src/main.rs` (the same calls, a thread per connection).

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::{future::pending, future::poll_fn, io, pin::Pin, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
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
/// The tasks that can run. A static, because `wake` gets no argument; locked, because it is a static.
/// (If other threads had wakers, `wake` would also have to end the wait, for example by an eventfd.)
static RUN_QUEUE: Mutex<VecDeque<Arc<Task>>> = Mutex::new(VecDeque::new());
/// The read buffer. All tasks share it.
static BUFFER: Mutex<[u8; BUFFER_SIZE]> = Mutex::new([0; BUFFER_SIZE]);

/// The state machine of an `async fn`. Pinned, because it may contain references to itself.
struct Task(Mutex<Pin<Box<dyn Future<Output = Result<()>> + Send>>>);

struct Reactor {
    epoll: Epoll,
    /// By file descriptor: the waker of the one task that awaits the socket. While the thread sleeps,
    /// each watched socket has one. Otherwise a ready socket would end every wait.
    wakers: Mutex<HashMap<RawFd, Waker>>,
    /// The listener while accepting is paused. The reactor wakes its task after the next wait.
    paused: Mutex<Option<RawFd>>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        listener.set_nonblocking(true)?;
        exit_on_stop()?; // no task has to complete anything before the process ends
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?;
        let interest = event(EpollFlags::EPOLLIN, &listener);
        epoll.add(&listener, interest).context("epoll_ctl(ADD, listener)")?;
        announce(listener.local_addr()?);
        let reactor = Reactor { epoll, wakers: Mutex::default(), paused: Mutex::default() };
        let reactor = Box::leak(Box::new(reactor)); // `'static`, as the tasks
        spawn(accept_all(reactor, listener));
        run_tasks(reactor)
    })
}

fn event(interest: EpollFlags, socket: &impl AsFd) -> EpollEvent {
    EpollEvent::new(interest, socket.as_fd().as_raw_fd() as u64)
}

async fn accept_all(reactor: &'static Reactor, listener: TcpListener) -> Result<()> {
    loop {
        reactor.ready(&listener).await;
        for _ in 0..MAX_ACCEPTS {
            match accept(&listener) {
                Accepted::Connection(stream, peer) => spawn(serve_client(reactor, stream, peer)),
                Accepted::WouldBlock => break,
                Accepted::Pause => {
                    // Not watched during the next wait. Pitfalls: accept-spins, spare-descriptor
                    reactor.epoll.modify(&listener, &mut event(EpollFlags::empty(), &listener))?;
                    *lock(&reactor.paused) = Some(listener.as_raw_fd());
                    reactor.ready(&listener).await;
                    reactor.epoll.modify(&listener, &mut event(EpollFlags::EPOLLIN, &listener))?;
                }
            }
        }
    }
}

async fn serve_client(reactor: &Reactor, stream: TcpStream, peer: SocketAddr) -> Result<()> {
    if let Err(error) = reactor.epoll.add(&stream, event(EpollFlags::EPOLLIN, &stream)) {
        // ENOSPC (the user's limit, fs.epoll.max_user_watches) or ENOMEM.
        warn!("{peer} refused: epoll_ctl(ADD): {error}");
        return Ok(());
    }
    match echo(reactor, &stream).await {
        Ok(()) => info!("{peer} disconnected"),
        // ECONNRESET, EPIPE, ETIMEDOUT: ends this connection only. Pitfall: peer-error-ends
        Err(error) => info!("{peer} disconnected: {error}"),
    }
    Ok(())
}

async fn echo(reactor: &Reactor, stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    loop {
        reactor.ready(stream).await; // (1)
        let pending = {
            let mut buffer = lock(&BUFFER); // never across an `.await`: tasks share it
            let Some(count) = read(stream, &mut buffer[..])? else { continue }; // (5)
            if count == 0 {
                return Ok(()); // EOF. No output is pending here.
            }
            let written = write(stream, &buffer[..count])?;
            buffer[written..count].to_vec() // allocates nothing if nothing is left
        };
        if !pending.is_empty() {
            // Not EPOLLIN: unread input would end every wait at once.
            reactor.epoll.modify(stream, &mut event(EpollFlags::EPOLLOUT, stream))?;
            let mut offset = 0;
            while offset < pending.len() {
                reactor.ready(stream).await; // (6)
                offset += write(stream, &pending[offset..])?;
            }
            reactor.epoll.modify(stream, &mut event(EpollFlags::EPOLLIN, stream))?;
        }
    }
}

fn spawn(future: impl Future<Output = Result<()>> + Send + 'static) {
    Arc::new(Task(Mutex::new(Box::pin(future)))).wake();
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        lock(&RUN_QUEUE).push_back(self);
    }
}

fn run_tasks(reactor: &Reactor) -> Result<()> {
    let mut events = [EpollEvent::empty(); MAX_EVENTS];
    loop {
        // The executor polls the tasks that are queued now, and a task that is woken meanwhile later.
        let queued = lock(&RUN_QUEUE).len();
        for _ in 0..queued {
            let Some(task) = lock(&RUN_QUEUE).pop_front() else { break };
            let waker = Waker::from(Arc::clone(&task)); // (4)
            let mut machine = lock(&task.0);
            if let Poll::Ready(result) = machine.as_mut().poll(&mut Context::from_waker(&waker)) {
                *machine = Box::pin(pending()); // for a waker that still holds the task
                result?; // only that of `accept_all` can be an error, which ends the server
            }
        }
        let paused = lock(&reactor.paused).take();
        let timeout = match paused {
            _ if !lock(&RUN_QUEUE).is_empty() => EpollTimeout::ZERO,
            Some(_) => EpollTimeout::try_from(ACCEPT_RETRY)?,
            None => EpollTimeout::NONE,
        };
        trace!("wait: epoll_wait"); // (2)
        let count = match reactor.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0, // Pitfall: eintr-fatal
            result => result.context("epoll_wait")?,
        };
        trace!("wait: epoll_wait = {count} ready");
        let reported = events[..count].iter().map(|event| event.data() as RawFd);
        for fd in reported.chain(paused) {
            let waker = lock(&reactor.wakers).remove(&fd);
            waker.into_iter().for_each(Waker::wake); // (3)
        }
    }
}

impl Reactor {
    /// Completes when epoll has reported the socket. So it is always pending at first.
    async fn ready(&self, socket: &impl AsRawFd) {
        let fd = socket.as_raw_fd();
        lock(&self.wakers).insert(fd, Waker::noop().clone());
        poll_fn(|context| match lock(&self.wakers).get_mut(&fd) {
            // Not ready. Pitfalls: spurious-poll-taken-for-ready, waker-forgotten
            Some(waker) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            None => Poll::Ready(()), // the reactor has taken the waker (3)
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
