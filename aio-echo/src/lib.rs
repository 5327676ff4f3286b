//! POSIX AIO with the owner of the buffer in the types.
//!
//! An asynchronous operation has the buffer from the moment it is submitted until it has
//! completed. Freed before that, or its socket closed, it goes on: into memory that is somebody
//! else's by then, from whichever connection got the descriptor's number. So:
//!
//! - an [`Idle`] operation is ours, with its socket and its buffer;
//! - [`read`](Idle::read) and [`write`](Idle::write) hand it over, and leave us an [`InFlight`]
//!   that we can only ask whether it is [`done`](InFlight::done);
//! - that hands it back, when the library has let go of it.
//!
//! The rules of glibc, where POSIX AIO is not the kernel's but a pool of threads:
//!
//! - The socket has to block. On one that does not, an operation "completes" with `EAGAIN`.
//! - Operations on one descriptor are done one after another: while a read waits, so does a write.
//!   To have both at once, give each a descriptor (`TcpStream::try_clone`). Pitfall:
//!   aio-write-behind-read.
//! - Each operation that waits occupies a thread: see [`start_helpers`].
//! - `aio_cancel(3)` does not stop an operation that waits, nor does `close(2)`; `shutdown(2)`
//!   completes it. Who needs that shares the socket: `Idle<Arc<TcpStream>>`. Pitfall:
//!   aio-close-in-flight.

use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use libc::{aiocb, c_int};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};

/// An operation that is ours: a socket (`S`: what keeps it open), and a buffer.
pub struct Idle<S = TcpStream>(Box<Operation<S>>);

/// An operation that is the library's, until it is [`done`](InFlight::done).
///
/// Dropped before that, it is leaked and not freed.
#[must_use = "an operation that nobody takes back is leaked"]
pub struct InFlight<S = TcpStream>(NonNull<Operation<S>>);

#[repr(C)] // so that a pointer to it is a pointer to its first field
struct Operation<S> {
    control: aiocb,
    socket: S,
    buffer: Vec<u8>,
    reads: bool,
}

// SAFETY: the pointers in the control block are to what the operation owns.
unsafe impl<S: Send> Send for Operation<S> {}
// SAFETY: it stands for the operation; glibc locks, so any thread may ask how it is.
unsafe impl<S: Send> Send for InFlight<S> {}

impl<S: AsFd + 'static> Idle<S> {
    /// An operation on `socket`, which has to block, with `buffer`. `signal` will be sent to the
    /// process each time that it completes.
    ///
    /// The signal is a hint: look at all operations that are in flight. Its type has no real-time
    /// signals, which could say which one it was: they are queued, the queue is bounded
    /// (`RLIMIT_SIGPENDING`, for all processes of the user), and where one does not fit, glibc
    /// puts `EAGAIN` in place of the result, and what was read is lost. Others are not queued:
    /// several become one, and one always comes.
    #[must_use]
    pub fn new(socket: S, buffer: Vec<u8>, signal: Signal) -> Self {
        // SAFETY: a struct of numbers and pointers: zero is a value of them all.
        let mut control: aiocb = unsafe { mem::zeroed() };
        control.aio_sigevent =
            SigEvent::new(SigevNotify::SigevSignal { signal, si_value: 0 }).sigevent();
        Self(Box::new(Operation { control, socket, buffer, reads: false }))
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &S {
        &self.0.socket
    }

    /// The buffer.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0.buffer
    }

    /// Reads once, what comes, into the spare capacity of the buffer, of which there has to be
    /// some: a read of nothing completes with 0, as at the end of the input.
    ///
    /// # Errors
    /// `EAGAIN`: the library is out of memory or threads. The operation is dropped.
    pub fn read(mut self) -> io::Result<InFlight<S>> {
        let spare = self.0.buffer.spare_capacity_mut();
        self.0.control.aio_buf = spare.as_mut_ptr().cast();
        self.0.control.aio_nbytes = spare.len();
        self.0.reads = true;
        self.submit(libc::aio_read)
    }

    /// Writes what is in the buffer from `start` on. The socket blocks, so that is all of it,
    /// but for an error or an interruption (SIGSTOP): it may be less.
    ///
    /// # Errors
    /// `EAGAIN`: the library is out of memory or threads. The operation is dropped.
    ///
    /// # Panics
    /// Where the buffer ends before `start`.
    pub fn write(mut self, start: usize) -> io::Result<InFlight<S>> {
        let bytes = &mut self.0.buffer[start..];
        self.0.control.aio_buf = bytes.as_mut_ptr().cast();
        self.0.control.aio_nbytes = bytes.len();
        self.0.reads = false;
        self.submit(libc::aio_write)
    }

    fn submit(
        mut self,
        aio_read_or_write: unsafe extern "C" fn(*mut aiocb) -> c_int,
    ) -> io::Result<InFlight<S>> {
        self.0.control.aio_fildes = self.0.socket.as_fd().as_raw_fd();
        let operation = NonNull::from(Box::leak(self.0));
        // SAFETY: control block, buffer and socket are the operation's, and stay where they are
        // until `done`: nobody else can reach them.
        let refused = unsafe { aio_read_or_write(operation.cast().as_ptr()) } != 0;
        if refused {
            let error = io::Error::last_os_error();
            // SAFETY: from the `Box` above, and the library has not taken it.
            drop(unsafe { Box::from_raw(operation.as_ptr()) });
            return Err(error);
        }
        Ok(InFlight(operation))
    }
}

impl<S> InFlight<S> {
    /// Takes the operation back, with its result, the number of bytes; or not, where it is still
    /// in flight.
    ///
    /// # Errors
    /// Itself, where it is still in flight.
    pub fn done(self) -> Result<(Idle<S>, io::Result<usize>), Self> {
        let control = self.0.cast::<aiocb>().as_ptr();
        // SAFETY: the control block of an operation that was submitted.
        let error = unsafe { libc::aio_error(control) };
        if error == libc::EINPROGRESS {
            return Err(self);
        }
        // SAFETY: as above, and it has completed.
        let count = unsafe { libc::aio_return(control) };
        // SAFETY: from the `Box` in `submit`. glibc sets the result and forgets the operation
        // under one lock, which `aio_error` took too.
        let mut operation = unsafe { Box::from_raw(self.0.as_ptr()) };
        if error != 0 {
            return Ok((Idle(operation), Err(io::Error::from_raw_os_error(error))));
        }
        if operation.reads {
            let len = operation.buffer.len() + count as usize;
            // SAFETY: so many bytes of the spare capacity were read into.
            unsafe { operation.buffer.set_len(len) };
        }
        Ok((Idle(operation), Ok(count as usize)))
    }
}

/// Lets the library have `count` threads. It starts one where an operation finds none idle, and
/// ends it after a second without work (or as soon as another has taken the work that it was woken
/// for: under load, that is often). Call it before the first operation: later it has no effect.
///
/// By itself it has 20, and the 21st operation waits until one of those before it has completed:
/// a write, too, behind 20 reads from clients that say nothing. Pitfall: aio-pool-of-twenty.
pub fn start_helpers(count: c_int) {
    let options = AioInit { threads: count, operations: count, ..AioInit::default() };
    // SAFETY: glibc's signature, and it copies what it needs.
    unsafe { aio_init(&raw const options) };
}

/// Gives each buffer of `size` bytes or more pages of its own, which cost nothing before they are
/// used, and go back to the system when the buffer is freed.
///
/// Where each connection has a buffer, that matters: on the heap one small block that stays (of a
/// thread's, of a table that has grown) keeps all that lies below it.
pub fn own_pages(size: c_int) {
    // SAFETY: it sets a number.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, size) };
}

/// `struct aioinit` of glibc's `<aio.h>`, which the libc crate does not have.
#[repr(C)]
#[derive(Default)]
struct AioInit {
    threads: c_int,
    /// Room for so many operations from the start; there will be more as it is needed.
    operations: c_int,
    unused: [c_int; 4],
    /// Seconds until a thread without work ends; 0 for what it is by itself, which is 1.
    idle_time: c_int,
    reserved: c_int,
}

unsafe extern "C" {
    fn aio_init(options: *const AioInit);
}
