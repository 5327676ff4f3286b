//! Tasks in one thread, as in `async-echo`, for the pitfalls that are about async/await.
//!
//! Unlike `async-echo`, a task may await input and room of its socket at the same time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use common::{Accepted, accept, announce, exit_on_stop, listen, lock};
use log::info;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{ACCEPT_RETRY, event};

static RUN_QUEUE: Mutex<VecDeque<Arc<Task>>> = Mutex::new(VecDeque::new());

type Machine = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task(Mutex<Option<Machine>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        lock(&RUN_QUEUE).push_back(self);
    }
}

/// Keeps the wakers of the tasks that await a socket.
pub struct Reactor {
    epoll: Epoll,
    /// By file descriptor: the waker for EPOLLIN and the waker for EPOLLOUT.
    wakers: Mutex<HashMap<RawFd, [Option<Waker>; 2]>>,
}

const DIRECTIONS: [EpollFlags; 2] = [EpollFlags::EPOLLIN, EpollFlags::EPOLLOUT];

impl Reactor {
    /// Stores a waker until `socket` is ready for `interest`, EPOLLIN or EPOLLOUT.
    ///
    /// # Errors
    /// None in practice: `epoll_ctl(MOD)` does not fail for a registered file descriptor.
    pub fn register(
        &self,
        socket: &impl AsFd,
        interest: EpollFlags,
        waker: &Waker,
    ) -> io::Result<()> {
        let fd = socket.as_fd().as_raw_fd();
        let mut wakers = lock(&self.wakers);
        let stored = wakers.entry(fd).or_default();
        stored[usize::from(interest == DIRECTIONS[1])] = Some(waker.clone());
        Ok(self.epoll.modify(socket, &mut one_shot(stored, fd))?)
    }

    /// Completes when `socket` is ready for `interest`, EPOLLIN or EPOLLOUT.
    pub fn ready<'a>(&'a self, socket: &'a TcpStream, interest: EpollFlags) -> Ready<'a> {
        Ready { reactor: self, socket, interest, is_registered: false }
    }

    fn wake(&self, fd: RawFd, events: EpollFlags) {
        let mut wakers = lock(&self.wakers);
        let Some(stored) = wakers.get_mut(&fd) else { return };
        let closed = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        for (waker, direction) in stored.iter_mut().zip(DIRECTIONS) {
            if events.intersects(direction | closed) {
                waker.take().into_iter().for_each(Waker::wake);
            }
        }
    }
}

/// The event that is reported once for each waker that is stored.
fn one_shot(stored: &[Option<Waker>; 2], fd: RawFd) -> EpollEvent {
    let mut interest = EpollFlags::EPOLLONESHOT;
    for (waker, direction) in stored.iter().zip(DIRECTIONS) {
        interest.set(direction, waker.is_some());
    }
    event(interest, fd)
}

/// The future of [`Reactor::ready`].
pub struct Ready<'a> {
    reactor: &'a Reactor,
    socket: &'a TcpStream,
    interest: EpollFlags,
    is_registered: bool,
}

impl Future for Ready<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let index = usize::from(self.interest == DIRECTIONS[1]);
        let fd = self.socket.as_raw_fd();
        let wakers = lock(&self.reactor.wakers);
        let is_stored = wakers.get(&fd).is_some_and(|stored| stored[index].is_some());
        drop(wakers);
        if self.is_registered && !is_stored {
            return Poll::Ready(Ok(()));
        }
        self.is_registered = true;
        self.reactor.register(self.socket, self.interest, context.waker())?;
        Poll::Pending
    }
}

/// Runs `client` as a task for each connection. Keeps a task until its end, also if nobody has a
/// waker of it. When a signal interrupts the wait, polls all tasks: a future must expect that at any
/// time.
///
/// # Errors
/// The server cannot listen on `addr`, or a call to epoll fails.
pub fn tasks<F>(addr: &str, client: impl Fn(&'static Reactor, TcpStream) -> F) -> anyhow::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = listen(addr)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let listener_fd = listener.as_raw_fd();
    epoll.add(&listener, event(EpollFlags::EPOLLIN, listener_fd))?;
    exit_on_stop()?;
    announce(listener.local_addr()?);
    let reactor: &'static Reactor =
        Box::leak(Box::new(Reactor { epoll, wakers: Mutex::default() }));
    let mut all: Vec<Arc<Task>> = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    let mut accept_paused = false;
    loop {
        let queued = lock(&RUN_QUEUE).len();
        for _ in 0..queued {
            let Some(task) = lock(&RUN_QUEUE).pop_front() else { break };
            let waker = Waker::from(Arc::clone(&task));
            let mut machine = lock(&task.0);
            let Some(future) = machine.as_mut() else { continue };
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                *machine = None;
            }
        }
        let timeout = match accept_paused {
            _ if !lock(&RUN_QUEUE).is_empty() => EpollTimeout::ZERO,
            true => EpollTimeout::try_from(ACCEPT_RETRY)?,
            false => EpollTimeout::NONE,
        };
        let ready = match reactor.epoll.wait(&mut events, timeout) {
            Ok(count) => &events[..count],
            Err(Errno::EINTR) => {
                all.iter().cloned().for_each(Wake::wake);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut listener_ready = accept_paused;
        for event in ready {
            let fd = event.data() as RawFd;
            listener_ready |= fd == listener_fd;
            reactor.wake(fd, event.events());
        }
        if !listener_ready {
            continue;
        }
        let pause = match accept(&listener) {
            Accepted::Connection(stream, peer) => {
                stream.set_nonblocking(true)?;
                let fd = stream.as_raw_fd();
                lock(&reactor.wakers).remove(&fd); // those of an earlier connection
                reactor.epoll.add(&stream, event(EpollFlags::EPOLLONESHOT, fd))?;
                let future = client(reactor, stream);
                let task = Arc::new(Task(Mutex::new(Some(Box::pin(async move {
                    match future.await {
                        Ok(()) => info!("{peer} disconnected"),
                        Err(error) => info!("{peer} disconnected: {error}"),
                    }
                })))));
                all.retain(|task| lock(&task.0).is_some());
                all.push(Arc::clone(&task));
                task.wake();
                false
            }
            Accepted::WouldBlock => false,
            Accepted::Pause => true,
        };
        if pause != accept_paused {
            accept_paused = pause;
            let interest = if pause { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            reactor.epoll.modify(&listener, &mut event(interest, listener_fd))?;
        }
    }
}
