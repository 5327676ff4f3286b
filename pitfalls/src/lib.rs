//! The classic mistakes, each a small server in `src/bin/` that is wrong in exactly one way; and,
//! here, what these servers have right, so that each file shows its mistake and little else.
//!
//! Do not copy from this package. Each header says what the mistake is, what a user sees of it,
//! the kernel's rule behind it, a command that shows it, and where our servers do it right.
//! `cargo test pitfalls` runs, for each, the case of the contract that catches it, and fails
//! unless that case fails, for the reason that the header gives.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

pub use common::lock;
use common::{Accepted, accept, announce, exit_on_stop, listen};
use log::warn;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Until `accept` is tried again while descriptors are short.
const RETRY: u16 = 100;

/// A thread for each client, as in `blocking-echo`.
///
/// # Errors
/// The address cannot be listened on.
pub fn threads(
    addr: &str,
    client: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    exit_on_stop()?;
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    loop {
        match accept(&listener) {
            Accepted::Connection(stream, peer) => {
                let client = client.clone();
                // That a peer is lost is its own affair.
                let thread = thread::Builder::new().spawn(move || client(stream));
                if let Err(error) = thread {
                    warn!("{peer} refused: {error}");
                }
            }
            _ => thread::sleep(Duration::from_millis(RETRY.into())),
        }
    }
}

/// One thread and epoll, as in `epoll-echo`: `go_on` is called with what epoll says of a client,
/// and says whether to keep it.
///
/// # Errors
/// The address cannot be listened on.
pub fn epoll<C: AsFd>(
    addr: &str,
    interest: EpollFlags,
    new: impl Fn(TcpStream, SocketAddr) -> io::Result<C>,
    mut go_on: impl FnMut(&Epoll, &mut C, EpollFlags) -> io::Result<bool>,
) -> anyhow::Result<()> {
    exit_on_stop()?;
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    listener.set_nonblocking(true)?;
    let door = listener.as_raw_fd();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, event(EpollFlags::EPOLLIN, door))?;
    let (mut clients, mut starved) = (BTreeMap::new(), false);
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let timeout = if starved { EpollTimeout::from(RETRY) } else { EpollTimeout::NONE };
        let ready = match epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => continue,
            result => &events[..result?],
        };
        let mut incoming = starved;
        for event in ready {
            let fd = event.data() as RawFd;
            incoming |= fd == door;
            let Some(client) = clients.get_mut(&fd) else { continue };
            if !go_on(&epoll, client, event.events()).unwrap_or(false) {
                clients.remove(&fd);
            }
        }
        if !incoming {
            continue;
        }
        let accepted = accept(&listener);
        let short = matches!(accepted, Accepted::Pause);
        if let Accepted::Connection(stream, peer) = accepted {
            stream.set_nonblocking(true)?;
            let (fd, client) = (stream.as_raw_fd(), new(stream, peer)?);
            epoll.add(&client, event(interest, fd))?;
            clients.insert(fd, client);
        }
        if short != starved {
            starved = short;
            let interest = if starved { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            epoll.modify(&listener, &mut event(interest, door))?;
        }
    }
}

/// Four threads and one epoll: each takes one event at a time, and calls `go_on` with the client
/// that it is about; `enter` registers a new one.
///
/// # Errors
/// The address cannot be listened on.
pub fn workers(
    addr: &str,
    enter: fn(&Epoll, TcpStream) -> io::Result<()>,
    go_on: fn(&Epoll, RawFd),
) -> anyhow::Result<()> {
    exit_on_stop()?;
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    for _ in 0..4 {
        let epoll = Arc::clone(&epoll);
        thread::Builder::new().spawn(move || {
            let mut events = [EpollEvent::empty()];
            loop {
                // Or EINTR.
                if epoll.wait(&mut events, EpollTimeout::NONE) == Ok(1) {
                    go_on(&epoll, events[0].data() as RawFd);
                }
            }
        })?;
    }
    loop {
        match accept(&listener) {
            // That a peer is lost is its own affair.
            Accepted::Connection(stream, _) => drop(enter(&epoll, stream)),
            _ => thread::sleep(Duration::from_millis(RETRY.into())),
        }
    }
}

/// An entry of epoll's list; the descriptor rides along and names the socket in the answer.
#[must_use]
pub fn event(interest: EpollFlags, fd: RawFd) -> EpollEvent {
    EpollEvent::new(interest, fd as u64)
}

/// No error, and nothing done, where a socket that does not block would have to.
///
/// # Errors
/// All others.
pub fn unless_it_blocks(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

/// From now on SIGIO tells this process of what comes to `socket`, which does not block.
///
/// # Errors
/// None in practice.
pub fn arm(socket: &impl AsRawFd) -> nix::Result<()> {
    let owner = (libc::F_SETOWN, nix::unistd::getpid().as_raw());
    let flags = (libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK);
    for (command, argument) in [owner, flags] {
        // SAFETY: these commands take a number and touch no memory.
        Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), command, argument) })?;
    }
    Ok(())
}

/// Submits a POSIX AIO operation with this buffer, and waits for its end; or for so long.
///
/// The buffer with what was read or is written, and how much; `None` where it goes on: then the
/// buffer is leaked, as the library may write to it at any time.
///
/// # Errors
/// What the read or write would have failed with.
pub fn aio(
    submit: unsafe extern "C" fn(*mut libc::aiocb) -> libc::c_int,
    fd: RawFd,
    buffer: Vec<u8>,
    patience: Option<Duration>,
) -> io::Result<Option<(Vec<u8>, usize)>> {
    // SAFETY: a struct of numbers and pointers: zero is a value of them all.
    let mut control: Box<libc::aiocb> = Box::new(unsafe { std::mem::zeroed() });
    let mut buffer = std::mem::ManuallyDrop::new(buffer);
    control.aio_fildes = fd;
    control.aio_buf = buffer.as_mut_ptr().cast();
    control.aio_nbytes = buffer.len();
    control.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
    let control = Box::into_raw(control);
    // SAFETY: control block and buffer stay where they are until the operation has completed.
    Errno::result(unsafe { submit(control) })?;
    let seconds = patience.map(|time| libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: 0 });
    let timeout = seconds.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the control block of an operation that was submitted.
    while unsafe { libc::aio_error(control) } == libc::EINPROGRESS {
        // SAFETY: a list of one.
        let waited = unsafe { libc::aio_suspend(&control.cast_const(), 1, timeout) };
        if waited != 0 && Errno::last() == Errno::EAGAIN {
            return Ok(None);
        }
    }
    // SAFETY: as above.
    let error = unsafe { libc::aio_error(control) };
    // SAFETY: it has completed.
    let count = unsafe { libc::aio_return(control) };
    // SAFETY: from the `Box` above, and the library has let go of it.
    drop(unsafe { Box::from_raw(control) });
    let buffer = std::mem::ManuallyDrop::into_inner(buffer);
    if error == 0 {
        Ok(Some((buffer, count as usize)))
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// A client of a small chat has come: it gets a name and is told so; `enter` puts it into the room.
///
/// # Errors
/// It is lost already.
pub fn welcome(
    mut stream: &TcpStream,
    enter: impl FnOnce(u64) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("guest{id}");
    enter(id)?;
    stream.write_all(format!("* you are {name}\n").as_bytes())?;
    Ok((id, name))
}

/// Says a line to a client, or disconnects it where it is lost or does not take it.
pub fn tell(mut stream: &TcpStream, line: &str) {
    if stream.write_all(line.as_bytes()).is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// The lines that end in `bytes`, the first of them begun in `unfinished`, each said by `name`.
pub fn lines(name: &str, unfinished: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    unfinished.extend(bytes);
    let end = unfinished.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let lines: Vec<u8> = unfinished.drain(..end).collect();
    let said = |line| [name.as_bytes(), b": ", line].concat();
    lines.split_inclusive(|&byte| byte == b'\n').flat_map(said).collect()
}
