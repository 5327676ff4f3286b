//! POSIX AIO with types that say who owns the buffer.
//!
//! From submission to completion, an asynchronous operation uses its buffer and its file descriptor.
//! If the buffer is freed earlier, the operation writes into memory that belongs to something else.
//! If the socket is closed earlier, the operation continues on the next connection that gets the
//! same number. So:
//!
//! - An [`Idle`] operation belongs to the program, with its socket and its buffer.
//! - [`submit_read`](Idle::submit_read) and [`submit_write`](Idle::submit_write) consume it, and
//!   return an [`InFlight`] operation, which gives no access to either.
//! - [`complete`](InFlight::complete) returns the [`Idle`] operation when it has completed.
//!
//! In glibc, POSIX AIO is not a service of the kernel, but a pool of *helper* threads that call
//! `read` and `write`. This leads to four rules:
//!
//! - The socket must be blocking. On a non-blocking one, an operation completes with EAGAIN.
//! - Operations on one file descriptor run one after another: a write waits behind a read that waits
//!   for data. To run both, give each a descriptor of its own (`TcpStream::try_clone`).
//!   Pitfall: aio-write-behind-read
//! - An operation that waits occupies a helper. See [`set_max_helpers`] for how many there are, and
//!   [`can_start_threads`] and [`InFlight::is_started`] for a system that does not permit as many.
//! - Neither `close(2)` nor `aio_cancel(3)` stops an operation that a helper has started.
//!   `shutdown(2)` completes it. To call `shutdown` while an operation is in flight, keep a second
//!   reference to the socket: `Idle<Arc<TcpStream>>`. Pitfall: aio-close-in-flight

use std::collections::TryReserveError;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use libc::{aiocb, c_int, c_void, pthread_attr_t, pthread_t};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};

/// Time after which an operation that no helper has started is submitted again.
pub const START_RETRY: Duration = Duration::from_millis(100);
/// How many times an operation is submitted again before it fails.
const MAX_RETRIES: u32 = 50;
/// Memory in bytes that must remain available when a client is admitted.
const MEMORY_RESERVE: usize = 1024 * 1024;
/// Stack size of the threads of [`can_start_threads`] in bytes. (The stack of a helper is smaller.)
const STACK_SIZE: usize = 64 * 1024;

/// An operation that belongs to the program: a socket (`S` keeps it open) and a buffer.
pub struct Idle<S = TcpStream>(Box<Operation<S>>);

/// An operation that belongs to glibc until [`complete`](InFlight::complete) returns it.
///
/// If it is dropped before that, its memory is leaked and not freed, and its socket stays open.
#[must_use = "an operation that is dropped in flight is leaked"]
pub struct InFlight<S = TcpStream> {
    operation: NonNull<Operation<S>>,
    /// When it was submitted. `None` once a helper is known to have started it.
    submitted: Option<Instant>,
    /// How many times it was submitted again, because no helper had started it.
    retries: u32,
}

#[repr(C)] // so that a pointer to the struct is a pointer to its first field
struct Operation<S> {
    control: aiocb,
    socket: S,
    buffer: Vec<u8>,
    is_read: bool,
}

// SAFETY: the pointers in the control block point to memory that the operation owns.
unsafe impl<S: Send> Send for Operation<S> {}
// SAFETY: `InFlight` owns the operation; `aio_error` and `aio_cancel` are thread-safe.
unsafe impl<S: Send> Send for InFlight<S> {}

impl<S: AsFd + 'static> Idle<S> {
    /// Creates an operation on `socket`, which must be blocking. The process gets `signal` each time
    /// the operation completes.
    ///
    /// The signal is only a notification: look at all operations in flight when it arrives. nix's
    /// `Signal` does not include real-time signals, which could carry the identity of the
    /// operation. Their queue is limited (`RLIMIT_SIGPENDING`, shared by all processes of the
    /// user), and if it is full, glibc replaces the result of the operation with EAGAIN, and the
    /// data that was read is lost. A standard signal does not queue: several completions become one
    /// signal, but never none.
    #[must_use]
    pub fn new(socket: S, buffer: Vec<u8>, signal: Signal) -> Self {
        // SAFETY: aiocb is a C struct of integers and pointers, for which all zeros is valid.
        let mut control: aiocb = unsafe { mem::zeroed() };
        control.aio_sigevent =
            SigEvent::new(SigevNotify::SigevSignal { signal, si_value: 0 }).sigevent();
        Self(Box::new(Operation { control, socket, buffer, is_read: false }))
    }

    /// Returns the socket.
    #[must_use]
    pub fn socket(&self) -> &S {
        &self.0.socket
    }

    /// Returns the buffer.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0.buffer
    }

    /// Submits a read, which appends to the buffer what arrives, within its capacity. There must be
    /// spare capacity: a read of 0 bytes completes with 0, as it does at EOF.
    ///
    /// # Errors
    /// EAGAIN: glibc has no helper and cannot create one, or there is no memory. The operation is
    /// dropped.
    pub fn submit_read(mut self) -> io::Result<InFlight<S>> {
        let spare = self.0.buffer.spare_capacity_mut();
        self.0.control.aio_buf = spare.as_mut_ptr().cast();
        self.0.control.aio_nbytes = spare.len();
        self.0.is_read = true;
        self.submit()
    }

    /// Submits a write of the buffer from `start` on.
    ///
    /// Because the socket is blocking, the write completes when all is written. It completes with a
    /// smaller count if SIGSTOP interrupts it or the connection fails.
    ///
    /// # Errors
    /// EAGAIN: glibc has no helper and cannot create one, or there is no memory. The operation is
    /// dropped.
    ///
    /// # Panics
    /// `start` is greater than the length of the buffer.
    pub fn submit_write(mut self, start: usize) -> io::Result<InFlight<S>> {
        let bytes = &mut self.0.buffer[start..];
        self.0.control.aio_buf = bytes.as_mut_ptr().cast();
        self.0.control.aio_nbytes = bytes.len();
        self.0.is_read = false;
        self.submit()
    }

    fn submit(mut self) -> io::Result<InFlight<S>> {
        self.0.control.aio_fildes = self.0.socket.as_fd().as_raw_fd();
        let operation = NonNull::from(Box::leak(self.0));
        let submitted = Some(Instant::now());
        let in_flight = InFlight { operation, submitted, retries: 0 };
        match in_flight.submit() {
            Ok(()) => Ok(in_flight),
            Err(error) => {
                drop(in_flight.into_idle());
                Err(error)
            }
        }
    }
}

impl<S> InFlight<S> {
    /// Returns the operation with its result, the number of bytes, if it has completed.
    ///
    /// Call this at each signal, and every [`START_RETRY`] while the operation is not
    /// [started](InFlight::is_started).
    ///
    /// # Errors
    /// The operation itself, if it is still in flight.
    pub fn complete(mut self) -> Result<(Idle<S>, io::Result<usize>), Self> {
        // SAFETY: this is the control block of an operation that was submitted.
        let error = unsafe { libc::aio_error(self.control()) };
        if error == libc::EINPROGRESS {
            return match self.retry_unless_started() {
                Ok(()) => Err(self),
                Err(error) => Ok((self.into_idle(), Err(error))),
            };
        }
        // SAFETY: as above, and the operation has completed.
        let count = unsafe { libc::aio_return(self.control()) };
        let mut idle = self.into_idle();
        if error != 0 {
            return Ok((idle, Err(io::Error::from_raw_os_error(error))));
        }
        if idle.0.is_read {
            let len = idle.0.buffer.len() + count as usize;
            // SAFETY: the read has initialized `count` bytes of the spare capacity.
            unsafe { idle.0.buffer.set_len(len) };
        }
        Ok((idle, Ok(count as usize)))
    }

    /// Returns whether the operation has completed, so that [`InFlight::complete`] returns its result.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        // SAFETY: this is the control block of an operation that was submitted.
        unsafe { libc::aio_error(self.control()) != libc::EINPROGRESS }
    }

    /// Returns whether a helper is known to have started the operation.
    ///
    /// If glibc cannot create a helper, it does not report that: as long as it has any helper, it
    /// queues the operation, and starts it when another operation has completed. If all other
    /// operations wait for clients that send nothing, it never starts. Only a new submission makes
    /// glibc try again.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.submitted.is_none()
    }

    /// Submits the operation again if no helper has started it in time.
    fn retry_unless_started(&mut self) -> io::Result<()> {
        let overdue = self.submitted.is_some_and(|at| at.elapsed() >= START_RETRY);
        if !overdue {
            return Ok(());
        }
        if !self.cancel() {
            self.submitted = None;
            return Ok(());
        }
        if self.retries == MAX_RETRIES {
            return Err(io::Error::other("no thread can be started for it"));
        }
        self.retries += 1;
        self.submitted = Some(Instant::now());
        self.submit()
    }

    fn submit(&self) -> io::Result<()> {
        // SAFETY: the operation does not belong to glibc now.
        let is_read = unsafe { self.operation.as_ref() }.is_read;
        let submit = if is_read { libc::aio_read } else { libc::aio_write };
        // SAFETY: the control block, the buffer and the socket belong to the operation. They stay
        // where they are until it has completed, and nothing else can reach them.
        let result = unsafe { submit(self.control()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Cancels the operation if no helper has started it. Returns whether it has been canceled.
    fn cancel(&self) -> bool {
        // SAFETY: this is the control block of an operation that was submitted. glibc writes to
        // other fields of it only.
        let fd = unsafe { (*self.control()).aio_fildes };
        // SAFETY: as above.
        unsafe { libc::aio_cancel(fd, self.control()) == libc::AIO_CANCELED }
    }

    fn control(&self) -> *mut aiocb {
        self.operation.cast().as_ptr()
    }

    /// Takes the operation back. The caller makes sure that it does not belong to glibc.
    fn into_idle(self) -> Idle<S> {
        // SAFETY: the pointer is from the `Box` in `Idle::submit`. glibc has refused or forgotten the
        // operation: it sets the result and forgets the operation under one lock, which `aio_error`
        // and `aio_cancel` take too.
        Idle(unsafe { Box::from_raw(self.operation.as_ptr()) })
    }
}

/// Permits glibc to use `count` helpers. Call this before the first operation; later it has no
/// effect.
///
/// By default there are at most 20, and the 21st operation waits until one of the others has
/// completed. With 20 idle clients, every write waits behind 20 reads. Pitfall: aio-pool-of-twenty
///
/// glibc starts a helper when an operation finds none idle. A helper ends if it has had no work for
/// a second, or if another helper took the work for which it was woken.
pub fn set_max_helpers(count: c_int) {
    let options = AioInit { threads: count, operations: count, ..AioInit::default() };
    // SAFETY: this is glibc's signature. The function copies what it needs.
    unsafe { aio_init(&raw const options) };
}

/// Returns whether the process can start `count` more threads, by starting and ending them.
///
/// glibc does not report that it could not create a helper (see [`InFlight::is_started`]). The limits
/// are many: `RLIMIT_NPROC`, the `pids.max` of a container, address space, memory mappings.
///
/// These are bare threads of the C library with a small stack, as glibc's helpers are. Not
/// `std::thread`: it panics if there is no memory for the signal stack.
#[must_use]
pub fn can_start_threads(count: usize) -> bool {
    extern "C" fn wait_for(gate: *mut c_void) -> *mut c_void {
        // SAFETY: the mutex exists until this thread has been joined.
        let gate = unsafe { &*gate.cast::<Mutex<()>>() };
        drop(gate.lock());
        ptr::null_mut()
    }
    let gate = Mutex::new(());
    // Locked until all threads have been started, because they must exist at the same time.
    let locked = gate.lock();
    let mut attributes = MaybeUninit::<pthread_attr_t>::uninit();
    let mut threads: Vec<pthread_t> = Vec::with_capacity(count);
    // SAFETY: `attributes` is valid for writing.
    unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
    // SAFETY: `attributes` is initialized.
    unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK_SIZE) };
    for _ in 0..count {
        let mut thread: pthread_t = 0;
        let argument = (&raw const gate).cast_mut().cast();
        // SAFETY: `thread` is valid for writing, the attributes are initialized, and the argument is
        // what `wait_for` expects.
        let error = unsafe {
            libc::pthread_create(&raw mut thread, attributes.as_ptr(), wait_for, argument)
        };
        if error != 0 {
            break;
        }
        threads.push(thread);
    }
    drop(locked);
    for &thread in &threads {
        // SAFETY: the thread was started above, and nothing else joins it.
        unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    }
    threads.len() == count
}

/// Allocates a buffer with `size` bytes of capacity, if a reserve of 1 MiB could be allocated, too.
///
/// Rust ends the process when an allocation fails; only the `try_` functions return an error. The
/// reserve leaves memory for the many small allocations that do not go through the `try_`
/// functions.
///
/// malloc maps the buffer separately (`mallopt`). Its pages then cost nothing until they are used,
/// and `free` returns them to the system. On the heap they would stay: the heap shrinks only from its
/// top, and a small block that is still in use keeps the freed memory below it.
///
/// # Errors
/// There is not enough memory or address space.
pub fn allocate_buffer(size: usize) -> Result<Vec<u8>, TryReserveError> {
    // SAFETY: the call sets a number.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, size as c_int) };
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(size + MEMORY_RESERVE)?;
    buffer.shrink_to(size);
    Ok(buffer)
}

/// `struct aioinit` of glibc's `<aio.h>`, which libc does not have.
#[repr(C)]
#[derive(Default)]
struct AioInit {
    threads: c_int,
    /// How many operations to allocate space for at first.
    operations: c_int,
    unused: [c_int; 4],
    /// Seconds until an idle helper ends. 0 stands for the default, 1.
    idle_time: c_int,
    reserved: c_int,
}

unsafe extern "C" {
    fn aio_init(options: *const AioInit);
}
