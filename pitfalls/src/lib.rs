//! What the pitfalls share, so that each of their files shows its mistake and little else.
//!
//! Each program in `src/bin/` is a small server with one mistake that matters here. Its header
//! states:
//! - `Mistake`: what is wrong;
//! - `Symptom`: what a user or an administrator sees;
//! - `Rule`: the rule of the kernel, of TCP or of a library that the mistake violates;
//! - `Reproduce`: the commands that show the symptom;
//! - `Correct`: the place where a server of this workspace does it right.
//!
//! Do not copy code from this package. `cargo test pitfalls` runs one case of the servers' test
//! suite (the contract) against each program: the case that its mistake breaks. The test passes
//! when that case fails for the expected reason.

pub mod ring;
pub mod tasks;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use common::lock;
use common::{
    Accepted, Connection, Progress, accept, announce, exit_on_stop, listen, stop_socket, write,
};
use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork};
use socket2::SockRef;

/// How long to pause accepting after `accept` has failed.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The most steps for one connection before the loop serves the others.
pub const MAX_STEPS: usize = 4;

/// Runs `client` in a thread of its own for each connection, like `blocking-echo`.
///
/// # Errors
/// The server cannot listen on `addr`.
pub fn threads(
    addr: &str,
    client: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let listener = listen(addr)?;
    exit_on_stop()?;
    announce(listener.local_addr()?);
    loop {
        match accept(&listener) {
            Accepted::Connection(stream, peer) => spawn(stream, peer, client.clone()),
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
        }
    }
}

/// Runs [`echo`] in a thread of its own for this connection.
pub fn spawn_echo(stream: TcpStream, peer: SocketAddr) {
    spawn(stream, peer, |stream| echo(&stream));
}

fn spawn(
    stream: TcpStream,
    peer: SocketAddr,
    client: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
) {
    let thread = thread::Builder::new().spawn(move || match client(stream) {
        Ok(()) => info!("{peer} disconnected"),
        Err(error) => info!("{peer} disconnected: {error}"), // ends this connection only
    });
    if let Err(error) = thread {
        warn!("{peer} refused: {error}");
    }
}

/// The number of worker processes that [`prefork`] starts.
pub const WORKERS: usize = 3;

/// Serves clients in worker processes, like `blocking-echo-prefork`. `supervise` is what the parent
/// does after it has started them.
///
/// # Errors
/// The server cannot listen on `addr` or start the workers, or `supervise` fails.
pub fn prefork(
    addr: &str,
    ends_with_parent: bool,
    supervise: impl FnOnce(&TcpListener) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let listener = listen(addr)?;
    exit_on_stop()?;
    for _ in 0..WORKERS {
        start_worker(&listener, ends_with_parent)?;
    }
    announce(listener.local_addr()?);
    supervise(&listener)
}

/// Starts a process that accepts one client after the other.
///
/// # Errors
/// fork(2) fails.
pub fn start_worker(listener: &TcpListener, ends_with_parent: bool) -> anyhow::Result<()> {
    // SAFETY: the process has one thread, so the child cannot inherit a lock that is held.
    if let ForkResult::Child = unsafe { fork() }? {
        if ends_with_parent {
            set_pdeathsig(Signal::SIGTERM)?;
        }
        loop {
            match accept(listener) {
                Accepted::Connection(stream, peer) => match echo(&stream) {
                    Ok(()) => info!("{peer} disconnected"),
                    Err(error) => info!("{peer} disconnected: {error}"),
                },
                Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
            }
        }
    }
    Ok(())
}

/// Serves all connections in one thread, like `epoll-echo`. `new` gets a non-blocking socket and
/// returns the state of its connection. `on_ready` gets that state when epoll reports an event, and
/// returns whether to keep the connection. An error of `on_ready` closes the connection. An error
/// of `new` refuses that connection.
///
/// # Errors
/// The server cannot listen on `addr`, or cannot create an epoll instance.
pub fn epoll<C: AsFd>(
    addr: &str,
    interest: EpollFlags,
    new: impl Fn(TcpStream, SocketAddr) -> io::Result<C>,
    on_ready: impl FnMut(&Epoll, &mut C, EpollFlags) -> io::Result<bool>,
) -> anyhow::Result<()> {
    let listener = listen(addr)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    exit_on_stop()?;
    announce(listener.local_addr()?);
    epoll_loop(&listener, &epoll, interest, new, on_ready)
}

/// The loop of [`epoll`], for programs that open the listener themselves.
///
/// # Errors
/// A call to epoll fails.
pub fn epoll_loop<C: AsFd>(
    listener: &TcpListener,
    epoll: &Epoll,
    interest: EpollFlags,
    new: impl Fn(TcpStream, SocketAddr) -> io::Result<C>,
    mut on_ready: impl FnMut(&Epoll, &mut C, EpollFlags) -> io::Result<bool>,
) -> anyhow::Result<()> {
    let listener_fd = listener.as_raw_fd();
    epoll.add(listener, event(EpollFlags::EPOLLIN, listener_fd))?;
    let mut clients = BTreeMap::new();
    let mut accept_paused = false;
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let timeout =
            if accept_paused { EpollTimeout::try_from(ACCEPT_RETRY)? } else { EpollTimeout::NONE };
        let ready = match epoll.wait(&mut events, timeout) {
            Ok(count) => &events[..count],
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut listener_ready = accept_paused;
        for event in ready {
            let fd = event.data() as RawFd;
            if fd == listener_fd {
                listener_ready = true;
            } else if let Some(client) = clients.get_mut(&fd) {
                let keep = on_ready(epoll, client, event.events()).unwrap_or(false);
                if !keep {
                    clients.remove(&fd);
                }
            }
        }
        if !listener_ready {
            continue;
        }
        let pause = match accept(listener) {
            Accepted::Connection(stream, peer) => {
                let fd = stream.as_raw_fd();
                match register(epoll, interest, stream, peer, &new) {
                    Ok(client) => {
                        clients.insert(fd, client);
                    }
                    Err(error) => warn!("{peer} refused: {error}"),
                }
                false
            }
            Accepted::WouldBlock => false,
            Accepted::Pause => true,
        };
        if pause != accept_paused {
            accept_paused = pause;
            let interest = if pause { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            epoll.modify(listener, &mut event(interest, listener_fd))?;
        }
    }
}

/// Makes the state of a connection and adds it to the interest list.
fn register<C: AsFd>(
    epoll: &Epoll,
    interest: EpollFlags,
    stream: TcpStream,
    peer: SocketAddr,
    new: impl Fn(TcpStream, SocketAddr) -> io::Result<C>,
) -> io::Result<C> {
    stream.set_nonblocking(true)?;
    let fd = stream.as_raw_fd();
    let client = new(stream, peer)?;
    epoll.add(&client, event(interest, fd))?;
    Ok(client)
}

/// Accepts in the main thread, and serves the connections in four threads that wait on one epoll
/// instance. Each thread takes one event at a time.
///
/// `add` registers a new connection. `on_ready` gets the file descriptor of each event.
///
/// # Errors
/// The server cannot listen on `addr`, or cannot create the epoll instance or the threads.
pub fn workers(
    addr: &str,
    add: fn(&Epoll, TcpStream) -> io::Result<()>,
    on_ready: fn(&Epoll, RawFd),
) -> anyhow::Result<()> {
    let listener = listen(addr)?;
    let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    for _ in 0..4 {
        let epoll = Arc::clone(&epoll);
        thread::Builder::new().spawn(move || {
            let mut events = [EpollEvent::empty()];
            loop {
                // The result is an error if a signal interrupts the wait (EINTR).
                if epoll.wait(&mut events, EpollTimeout::NONE) == Ok(1) {
                    on_ready(&epoll, events[0].data() as RawFd);
                }
            }
        })?;
    }
    exit_on_stop()?;
    announce(listener.local_addr()?);
    loop {
        match accept(&listener) {
            Accepted::Connection(stream, peer) => {
                if let Err(error) = add(&epoll, stream) {
                    warn!("{peer} refused: {error}");
                }
            }
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
        }
    }
}

/// Reads and writes once for a level-triggered connection, like `on_ready` in `epoll-echo`.
///
/// Returns whether to keep the connection.
///
/// # Errors
/// None in practice: `epoll_ctl(MOD)` does not fail for a registered file descriptor.
pub fn echo_step(
    epoll: &Epoll,
    connection: &mut Connection,
    buffer: &mut [u8],
) -> io::Result<bool> {
    if connection.step(buffer) == Progress::Closed {
        return Ok(false);
    }
    let pending = connection.has_pending_output();
    let interest = if pending { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
    epoll.modify(&*connection, &mut event(interest, connection.as_fd().as_raw_fd()))?;
    Ok(true)
}

/// Makes an entry for epoll's interest list. Its user data is the file descriptor.
#[must_use]
pub fn event(interest: EpollFlags, fd: RawFd) -> EpollEvent {
    EpollEvent::new(interest, fd as u64)
}

/// Echoes until EOF, on a blocking socket.
///
/// # Errors
/// The connection has failed.
pub fn echo(stream: &TcpStream) -> io::Result<()> {
    io::copy(&mut &*stream, &mut &*stream)?;
    Ok(())
}

/// Ends the process at SIGINT or SIGTERM, like [`exit_on_stop`], but shuts down the listener first.
/// An accept that is in flight in an `io_uring` would keep the port in use for a moment.
///
/// # Errors
/// The process is out of file descriptors or threads.
pub fn exit_on_stop_with_ring(listener: &TcpListener) -> anyhow::Result<()> {
    let mut stop = stop_socket()?;
    let listener = listener.try_clone()?;
    thread::Builder::new().spawn(move || {
        let _ = stop.read(&mut [0]);
        let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        process::exit(0);
    })?;
    Ok(())
}

/// Writes all of `bytes` to a non-blocking socket. Waits in `poll` while the send
/// buffer is full.
///
/// # Errors
/// The connection has failed.
pub fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut offset = 0;
    while offset < bytes.len() {
        let written = write(stream, &bytes[offset..])?;
        offset += written;
        if written == 0 {
            let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut watched, PollTimeout::NONE); // after EINTR, `write` returns 0 again
        }
    }
    Ok(())
}

/// Makes `socket` non-blocking and lets the kernel send SIGIO to this process when the socket
/// becomes ready.
///
/// # Errors
/// None in practice: fcntl(2) does not fail for an open file descriptor.
pub fn enable_sigio(socket: &impl AsFd) -> nix::Result<()> {
    let pid = nix::unistd::getpid().as_raw();
    // SAFETY: F_SETOWN takes a number and does not access memory.
    Errno::result(unsafe { libc::fcntl(socket.as_fd().as_raw_fd(), libc::F_SETOWN, pid) })?;
    let flags = libc::O_ASYNC | libc::O_NONBLOCK;
    // SAFETY: F_SETFL takes a number and does not access memory.
    Errno::result(unsafe { libc::fcntl(socket.as_fd().as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// Submits a POSIX AIO operation and waits until it is complete, or for at most `timeout`.
///
/// `submit` is `aio_read` or `aio_write`. Returns the buffer and the number of bytes, or `None`
/// after `timeout`. The operation is then still in progress. Its buffer and control block are
/// leaked, because the library still uses them.
///
/// # Errors
/// The error of the read or write.
pub fn aio(
    submit: unsafe extern "C" fn(*mut libc::aiocb) -> libc::c_int,
    fd: RawFd,
    buffer: Vec<u8>,
    timeout: Option<Duration>,
) -> io::Result<Option<(Vec<u8>, usize)>> {
    // SAFETY: aiocb is a C struct of integers and pointers, for which all zeros is a valid value.
    let mut control: Box<libc::aiocb> = Box::new(unsafe { std::mem::zeroed() });
    let mut buffer = ManuallyDrop::new(buffer);
    control.aio_fildes = fd;
    control.aio_buf = buffer.as_mut_ptr().cast();
    control.aio_nbytes = buffer.len();
    control.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
    let control = Box::into_raw(control);
    // SAFETY: the control block and the buffer stay in place until the operation is complete.
    Errno::result(unsafe { submit(control) })?;
    let timeout =
        timeout.map(|limit| libc::timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `control` is the control block of a submitted operation.
    while unsafe { libc::aio_error(control) } == libc::EINPROGRESS {
        // SAFETY: the list has one entry, which is valid, and `timeout` is null or valid.
        let result = unsafe { libc::aio_suspend(&control.cast_const(), 1, timeout) };
        if result != 0 && Errno::last() == Errno::EAGAIN {
            return Ok(None);
        }
    }
    // SAFETY: as above.
    let error = unsafe { libc::aio_error(control) };
    // SAFETY: the operation is complete, and its result is taken once.
    let count = unsafe { libc::aio_return(control) };
    // SAFETY: the pointer comes from `Box::into_raw`, and the library no longer uses it.
    drop(unsafe { Box::from_raw(control) });
    let buffer = ManuallyDrop::into_inner(buffer);
    if error == 0 {
        Ok(Some((buffer, count as usize)))
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Gives a new chat client an id and a name, calls `register` with the id, and sends the greeting.
///
/// # Errors
/// `register` fails, or the connection has failed.
pub fn join(
    mut stream: &TcpStream,
    register: impl FnOnce(u64) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let name = format!("guest{id}");
    register(id)?;
    stream.write_all(format!("* you are {name}\n").as_bytes())?;
    Ok((id, name))
}

/// Sends a line to a chat client, or disconnects the client if that fails.
pub fn send_line(mut stream: &TcpStream, line: &str) {
    if stream.write_all(line.as_bytes()).is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Prepares a connection for close(2), so that all output reaches the peer (lingering close): sends
/// FIN, and discards input until EOF, for at most a second.
///
/// # Errors
/// The connection has failed.
pub fn close_lingering(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        if stream.read(&mut [0; 4096])? == 0 {
            return Ok(());
        }
    }
}

/// Appends `bytes` to `unfinished`, removes the complete lines from it, and returns them, each with
/// the prefix `name: `. The rest stays in `unfinished`.
pub fn take_lines(name: &str, unfinished: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    unfinished.extend(bytes);
    let end = unfinished.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let mut lines = Vec::new();
    for line in unfinished[..end].split_inclusive(|&byte| byte == b'\n') {
        lines.extend(format!("{name}: ").bytes());
        lines.extend(line);
    }
    unfinished.drain(..end);
    lines
}
