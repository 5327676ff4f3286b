//! `io_uring`: operations are queued for the kernel in shared memory, and so are their results.
//!
//! ```text
//!      application                              kernel
//!  (1) recv(8, buffer) ── queue ─────────────▶  ┐
//!  (2) io_uring_enter ───────────────────────▶  │ wait: until the peer sends
//!        blocked                                ┘ a message has arrived
//!        blocked                                ┐ copy: into the buffer
//!  (3) recv(8) = 6 ◀───────────── queue ─────   ┘ completion
//!  (4) send(8, buffer) ── queue ─────────────▶    copy, when there is room; completion
//! ```
//!
//! The process is told after the second phase: *completion*. epoll and SIGIO tell it after the
//! first, *readiness*, and leave it the copy. A message: (1) to queue an operation is no system
//! call; (2) one call hands over all that are queued, for any sockets, and waits until something is
//! done; (3) the message is in the buffer; (4) and is sent from it. (5) What is left is sent again.
//!
//! Run: `cargo run -p aio-echo --bin aio-echo-uring`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Drawn from a trace: `docs/figures/aio-echo-uring.svg`.
//!
//! Use it when: a server spends its time on system calls. With 64 busy clients, 0.05 of them a
//! message (epoll-echo: 2.0) and 0.9 of epoll-echo's CPU; with one client there is no gain
//! (docs/benchmarks: 64 active, CPU time).
//! Limits: Linux 6.1 or newer, and refused in many containers. Completion needs the buffer before
//! the data is there: an idle connection holds one, though only the pages that were used cost.
//! Compare with: `aio-echo/src/main.rs` (POSIX AIO), `epoll-echo/src/main.rs` (readiness).

use std::collections::BTreeMap;
use std::io::{self, Error, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::ptr::null_mut;

use aio_echo::own_pages;
use anyhow::Context;
use common::{Accepted, ECHO_ADDR, announce, listen, run, stop_socket};
use io_uring::{IoUring, opcode, squeue::Entry, types::Fd, types::Timespec};
use log::{info, trace};
use socket2::SockRef;

/// Operations handed over in one call, and half of the completions taken back after it.
const OPERATIONS: u32 = 256;
/// Bytes read at once: as many as where the process copies (`common/src/connection.rs`).
const BUFFER: usize = 64 * 1024;
/// Until `accept` is tried again while descriptors are short: 100 ms.
static RETRY: Timespec = Timespec::new().nsec(100_000_000);
const TIMER: RawFd = -1; // which names it, in place of a descriptor

struct Server {
    listener: TcpListener,
    /// Readable: SIGINT or SIGTERM has come.
    stop: UnixStream,
    ring: IoUring,
    /// By descriptor, which names the operation too: each has one in flight, and is closed only
    /// when that has completed. So no completion can be taken for one of a later connection's.
    connections: BTreeMap<RawFd, Connection>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// The kernel's while an operation is in flight. We hand it on, and look at no byte of it.
    buffer: Box<[MaybeUninit<u8>]>,
    /// What of the buffer is being sent; empty while it is being received into.
    owed: Range<usize>,
}

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        // Results are then kept until we wait for them: each would interrupt us otherwise.
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(OPERATIONS);
        let ring = ring.context("io_uring is refused (Linux before 6.1, a sysctl, a container)")?;
        own_pages(BUFFER as i32);
        let (stop, listener) = (stop_socket()?, listen(&addr)?);
        announce(listener.local_addr()?);
        let server = Server { listener, stop, ring, connections: BTreeMap::new() };
        // Never freed: at the end there are buffers that the kernel still has.
        Box::leak(Box::new(server)).serve()
    })
}

impl Server {
    fn serve(&mut self) -> anyhow::Result<()> {
        let stop = self.stop.as_raw_fd();
        self.submit(stop, opcode::PollAdd::new(Fd(stop), libc::POLLIN as u32).build())?;
        self.submit_accept()?;
        let mut done = Vec::new();
        loop {
            trace!("wait: io_uring_enter"); // (2)
            self.enter(1)?;
            done.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
            trace!("wait: io_uring_enter = {} done", done.len());
            for (fd, result) in done.drain(..) {
                // As the system call would have returned it, or minus its `errno`.
                let result = usize::try_from(result).map_err(|_| Error::from_raw_os_error(-result));
                match fd as RawFd {
                    fd if fd == stop => {
                        // Else the accept in flight keeps the address in use until after our end.
                        return Ok(SockRef::from(&self.listener).shutdown(Shutdown::Both)?);
                    }
                    fd if fd == self.listener.as_raw_fd() => self.on_accepted(result)?,
                    TIMER => self.submit_accept()?,
                    fd => self.go_on(fd, result)?,
                }
            }
        }
    }

    /// Queues an operation. The descriptor rides along and names the socket when it is done.
    fn submit(&mut self, fd: RawFd, operation: Entry) -> io::Result<()> {
        let operation = operation.user_data(fd as u64);
        // SAFETY: its buffer, if any, is a connection's, which nobody touches until it is done.
        while unsafe { self.ring.submission().push(&operation) }.is_err() {
            self.enter(0)?; // The queue is full.
        }
        Ok(())
    }

    /// Hands over what is queued, and waits until as many operations as wanted are done.
    fn enter(&self, wanted: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(wanted).map_err(|error| (error.raw_os_error(), error)) {
            // A signal; or the kernel has no room just now: what is done makes some.
            Ok(_) | Err((Some(libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn go_on(&mut self, fd: RawFd, result: io::Result<usize>) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        match result.map(|count| connection.go_on(count)) {
            Ok(Some(operation)) => return self.submit(fd, operation),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                // A thread of the kernel's was waiting for this, and was stopped (SIGSTOP).
                let again = connection.operation();
                return self.submit(fd, again);
            }
            Ok(None) => info!("{} left", connection.peer),
            Err(error) => info!("{} left: {error}", connection.peer), // a reset, a time-out
        }
        self.connections.remove(&fd);
        Ok(())
    }

    fn submit_accept(&mut self) -> io::Result<()> {
        let fd = self.listener.as_raw_fd();
        let accept = opcode::Accept::new(Fd(fd), null_mut(), null_mut());
        self.submit(fd, accept.flags(libc::SOCK_CLOEXEC).build())
    }

    fn on_accepted(&mut self, result: io::Result<usize>) -> io::Result<()> {
        let answer = result.and_then(|fd| {
            // SAFETY: the kernel has just opened it for us.
            let stream = unsafe { TcpStream::from_raw_fd(fd as RawFd) };
            stream.peer_addr().map(|peer| (stream, peer))
        });
        match Accepted::from_result(answer) {
            Some(Accepted::Connection(stream, peer)) => {
                let (fd, buffer) = (stream.as_raw_fd(), Box::new_uninit_slice(BUFFER));
                let mut connection = Connection { stream, peer, buffer, owed: 0..0 };
                let operation = connection.operation();
                self.connections.insert(fd, connection);
                self.submit(fd, operation)?;
            }
            Some(Accepted::Pause) => {
                // Done when anything else is (a connection may have closed), or the time is over.
                return self.submit(TIMER, opcode::Timeout::new(&raw const RETRY).count(1).build());
            }
            Some(Accepted::WouldBlock) | None => {}
        }
        self.submit_accept()
    }
}

impl Connection {
    /// Notes that `count` bytes were copied, and says what is next: `None` at the end of the input.
    fn go_on(&mut self, count: usize) -> Option<Entry> {
        let fd = self.stream.as_raw_fd();
        if self.owed.is_empty() {
            trace!("copy: recv({fd}) = {count}"); // (3)
            self.owed = 0..count;
        } else {
            trace!("copy: send({fd}) = {count} of {}", self.owed.len()); // (5)
            self.owed.start += count;
        }
        (count > 0).then(|| self.operation())
    }

    fn operation(&mut self) -> Entry {
        let (fd, owed) = (Fd(self.stream.as_raw_fd()), &self.buffer[self.owed.clone()]);
        if owed.is_empty() {
            opcode::Recv::new(fd, self.buffer.as_mut_ptr().cast(), BUFFER as u32).build() // (1)
        } else {
            opcode::Send::new(fd, owed.as_ptr().cast(), owed.len() as u32).build() // (4)
        }
    }
}
