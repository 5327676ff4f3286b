//! async/await on `io_uring`: a future is an operation of the kernel. It completes when the kernel has
//! copied the data, not when a socket is ready. So this is asynchronous I/O.
//!
//! ```text
//!      task of client 8         executor and reactor              kernel
//!  (1) recv(8, buffer).await ▶  keep the buffer and the waker
//!        suspended          (2) io_uring_enter ────────────────▶  ┐ wait, and copy
//!        suspended          (3) wake: into the run queue ◀─────   ┘ completion
//!  (4) 6 bytes, buffer ◀─────── poll
//!  (5) send(8, buffer).await ▶  as (1) to (4)
//! ```
//!
//! How a message travels: (1) The task gives its buffer to the reactor, for the kernel. (2) One call
//! submits the operations of all tasks, and waits. (3) The reactor keeps the result, and wakes the
//! task. (4) The future returns the result and the buffer. (5) The task sends the message, with
//! another operation after a short send. Only then does it receive again.
//!
//! The catch: to cancel a task is to drop its future, at any `.await`. A buffer that the future owned
//! or borrowed would be freed while the kernel still writes to it. So the buffer belongs to the
//! reactor until the completion, and a receive has to give it back. (6) Dropping a future asks the
//! kernel to cancel the operation. Pitfall: cancel-loses-bytes
//!
//! Run: `cargo run -p async-echo --bin async-echo-uring`
//!
//! ```text
//! $ nc 127.0.0.1 7000
//! hello
//! hello
//! ```
//!
//! Figure: `docs/figures/async-echo-uring.svg`.
//!
//! Use it when: you want to see why the runtimes on `io_uring` take buffers by value.
//! Limits: Linux 6.1 or newer, and forbidden in many containers. A buffer per connection.
//! Compare with: `diff async-echo/src/main.rs async-echo/src/bin/async-echo-uring.rs` (readiness),
//! `uring-echo/src/main.rs` (the same operations, without futures).

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::{fd::AsRawFd, unix::net::UnixStream};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::{future::poll_fn, io, io::ErrorKind, pin::Pin, pin::pin, process::ExitCode};

use common::{Accepted, BUFFER_SIZE, ECHO_ADDR, announce, listen, lock, run, stop_socket};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd, types::Timespec};
use log::{info, trace};
use uring_echo::{accept_operation, accept_result, allocate_buffer};
use uring_echo::{enter, io_result, new_ring, queue};

/// Size of the submission queue. When it is full, the reactor submits early.
const MAX_OPERATIONS: u32 = 256;
/// The time between two accepts while accepting is paused: 100 ms.
static ACCEPT_RETRY: Timespec = Timespec::new().nsec(100_000_000);

/// The tasks that can run. Locked, because any thread may have a waker (here, no other one has).
static RUN_QUEUE: Mutex<VecDeque<Arc<Task>>> = Mutex::new(VecDeque::new());

/// The state machine of an `async fn`. Pinned, because it may contain references to itself.
type Machine = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// `None` after its end, because a waker may keep the task for longer.
struct Task(Mutex<Option<Machine>>);

struct Reactor {
    ring: IoUring,
    completions: Vec<cqueue::Entry>,
    /// By user data, which is a new number for each operation. 0 is for cancellations.
    operations: HashMap<u64, Operation>,
    last: u64,
}

struct Operation {
    entry: squeue::Entry,
    /// The memory that the kernel uses.
    buffer: Vec<u8>,
    /// `None` if the future was dropped.
    waker: Option<Waker>,
    result: Option<io::Result<usize>>,
}

type Shared = &'static Mutex<Reactor>;

/// The future of an operation.
struct InFlight(Shared, u64);

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let stop = stop_socket()?;
        let ring = new_ring(MAX_OPERATIONS)?;
        announce(listener.local_addr()?);
        let operations = HashMap::new();
        let reactor = Reactor { ring, completions: Vec::new(), operations, last: 0 };
        // Never freed: at the end, the kernel may still write to the buffers.
        let reactor = Box::leak(Box::new(Mutex::new(reactor)));
        block_on(reactor, accept_all(reactor, listener, stop))
    })
}

/// Accepts until SIGINT or SIGTERM arrives.
async fn accept_all(reactor: Shared, listener: TcpListener, stop: UnixStream) {
    let poll = opcode::PollAdd::new(Fd(stop.as_raw_fd()), libc::POLLIN as u32).build();
    let mut stopped = start(reactor, poll, Vec::new());
    loop {
        let mut accepted = start(reactor, accept_operation(listener.as_raw_fd()), Vec::new());
        // Whichever completes first. A signal drops the accept (6), which would keep the port.
        let first = poll_fn(|context| match Pin::new(&mut accepted).poll(context) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => Pin::new(&mut stopped).poll(context).map(|_| None),
        });
        let Some((result, _)) = first.await else { return };
        match accept_result(result) {
            Some(Accepted::Connection(stream, peer)) => spawn(serve(reactor, stream, peer)),
            // Pitfalls: accept-spins, spare-descriptor
            Some(Accepted::Pause | Accepted::WouldBlock) => {
                let timeout = opcode::Timeout::new(&raw const ACCEPT_RETRY).build();
                let _ = start(reactor, timeout, Vec::new()).await; // ETIME
            }
            None => {}
        }
    }
}

/// The task of a connection.
async fn serve(reactor: Shared, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
    match echo(reactor, &stream).await {
        Ok(()) => info!("{peer} disconnected"),
        // ECONNRESET, EPIPE, ETIMEDOUT: ends this connection only. Pitfall: peer-error-ends
        Err(error) => info!("{peer} disconnected: {error}"),
    }
    Ok(())
}

async fn echo(reactor: Shared, stream: &TcpStream) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let mut buffer = allocate_buffer(BUFFER_SIZE).map_err(io::Error::other)?;
    let mut result;
    loop {
        let recv = opcode::Recv::new(Fd(fd), buffer.as_mut_ptr(), BUFFER_SIZE as u32).build();
        (result, buffer) = start(reactor, recv, buffer).await; // (1)
        let count = result?; // (4)
        trace!("copy: recv({fd}) = {count}");
        if count == 0 {
            return Ok(()); // EOF. No output is pending here.
        }
        let mut rest = 0..count;
        while !rest.is_empty() {
            let start_of_rest = buffer.as_mut_ptr().wrapping_add(rest.start);
            let send = opcode::Send::new(Fd(fd), start_of_rest, rest.len() as u32).build();
            (result, buffer) = start(reactor, send, buffer).await; // (5)
            let count = result?;
            trace!("copy: send({fd}) = {count} of {}", rest.len());
            rest.start += count;
        }
    }
}

fn spawn(future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    Arc::new(Task(Mutex::new(Some(Box::pin(future))))).wake(); // for its first poll
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        lock(&RUN_QUEUE).push_back(self);
    }
}

/// Runs all tasks until `main` completes.
fn block_on(reactor: Shared, main: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut main = pin!(main);
    loop {
        let queued = lock(&RUN_QUEUE).len();
        for _ in 0..queued {
            let Some(task) = lock(&RUN_QUEUE).pop_front() else { break };
            let waker = Waker::from(Arc::clone(&task));
            let mut machine = lock(&task.0);
            let Some(future) = machine.as_mut() else { continue }; // it has ended
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                *machine = None; // closes its socket
                result?;
            }
        }
        // It is polled before each wait, so it needs no waker.
        if main.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return enter(&lock(reactor).ring, 2, None); // until the accept has been canceled
        }
        let mut reactor = lock(reactor);
        let Reactor { ring, completions, operations, .. } = &mut *reactor;
        let must_wait = completions.is_empty() && lock(&RUN_QUEUE).is_empty();
        trace!("wait: io_uring_enter"); // (2)
        enter(ring, must_wait.into(), None)?;
        completions.extend(ring.completion());
        trace!("wait: io_uring_enter = {} completed", completions.len());
        for completion in completions.drain(..) {
            let id = completion.user_data();
            let Some(operation) = operations.get_mut(&id) else { continue }; // a cancellation
            operation.result = Some(io_result(&completion));
            if let Some(waker) = operation.waker.take() {
                waker.wake(); // (3)
            } else {
                operations.remove(&id); // frees the buffer of a future that was dropped (6)
            }
        }
    }
}

impl Reactor {
    fn queue(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: `operations` keeps the buffer until the completion, and is never freed. Moving a
        // `Vec` does not move its bytes. `ACCEPT_RETRY` is static.
        unsafe { queue(&mut self.ring, entry, &mut self.completions) }.map_err(io::Error::other)
    }
}

/// Makes the future of an operation on `buffer`. Its first poll queues the operation.
fn start(reactor: Shared, entry: squeue::Entry, buffer: Vec<u8>) -> InFlight {
    let mut state = lock(reactor);
    state.last += 1;
    let id = state.last;
    let result = Some(Err(ErrorKind::Interrupted.into())); // not started
    let operation = Operation { entry: entry.user_data(id), buffer, waker: None, result };
    state.operations.insert(id, operation);
    InFlight(reactor, id)
}

impl Future for InFlight {
    type Output = (io::Result<usize>, Vec<u8>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut reactor = lock(self.0);
        let mut operation = reactor.operations.remove(&self.1).expect("not polled after its end");
        match operation.result.take() {
            // It is not queued yet, or SIGSTOP interrupted the kernel thread that carried it out.
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {
                if let Err(error) = reactor.queue(&operation.entry) {
                    return Poll::Ready((Err(error), operation.buffer));
                }
            }
            Some(result) => return Poll::Ready((result, operation.buffer)),
            None => {}
        }
        operation.waker = Some(context.waker().clone());
        reactor.operations.insert(self.1, operation);
        Poll::Pending
    }
}

impl Drop for InFlight {
    /// Cancels the operation if it is in flight (6).
    fn drop(&mut self) {
        let mut reactor = lock(self.0);
        match reactor.operations.get_mut(&self.1) {
            Some(Operation { result: None, waker, .. }) => {
                *waker = None;
                let _ = reactor.queue(&opcode::AsyncCancel::new(self.1).build());
            }
            _ => drop(reactor.operations.remove(&self.1)),
        }
    }
}
