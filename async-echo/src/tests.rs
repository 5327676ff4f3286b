//! What a task costs, and that the executor loses no wake-up.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

/// Counts the allocations of the threads that ask for it.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: it passes everything on to the system's allocator. The counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn reactor() -> &'static Reactor {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let reactor = Reactor { epoll, wakers: Mutex::default(), paused: Mutex::default() };
    Box::leak(Box::new(reactor))
}

/// Starts the server in a thread whose allocations are counted.
fn serve_here() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let reactor = reactor();
    reactor.epoll.add(&listener, event(EpollFlags::EPOLLIN, &listener)).expect("epoll");
    thread::spawn(move || {
        IS_COUNTED.set(true);
        spawn(accept_all(reactor, listener));
        run_tasks(reactor)
    });
    address
}

fn exchange(client: &mut TcpStream) {
    let mut reply = [0; 6];
    client.write_all(b"hello\n").expect("the server reads");
    client.read_exact(&mut reply).expect("the server replies");
    assert_eq!(&reply, b"hello\n");
}

/// The run queue is one for the process, so that these are one test.
#[test]
fn tasks() {
    let address = serve_here();
    let mut clients: Vec<_> =
        (0..64).map(|_| TcpStream::connect(address).expect("the server listens")).collect();
    // The tables have then grown to their size.
    (0..50).for_each(|_| clients.iter_mut().for_each(exchange));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..50).for_each(|_| clients.iter_mut().for_each(exchange));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0, "for 3200 messages");

    // A future that is woken again and again, by itself, stops nobody. So does a waker that is
    // used after the end of its task.
    let old = Arc::new(Mutex::new(None));
    let store = Arc::clone(&old);
    let mut polls = 0;
    spawn(poll_fn(move |context| {
        polls += 1;
        *lock(&store) = Some(context.waker().clone());
        context.waker().wake_by_ref();
        if polls < 1000 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }));
    (0..50).for_each(|_| clients.iter_mut().for_each(exchange));
    lock(&old).clone().expect("it was polled").wake();
    clients.iter_mut().for_each(exchange);
    assert!(lock(&RUN_QUEUE).is_empty());
}

/// Without a stack, a task is as large as its local variables.
#[test]
fn a_task_has_less_than_256_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a socket");
    let peer = stream.peer_addr().expect("an address");
    let size = size_of_val(&serve_client(reactor(), stream, peer));
    assert!(size < 256, "{size} bytes");
}
