//! Mistake: the event loop hands each job to a worker thread, and then waits until the worker has
//! finished.
//!
//! Symptom: a slow job delays all clients, as if there were no workers.
//!
//! Rule: the thread that waits for events must wait for nothing else. A worker reports its result
//! through an eventfd or a socket pair that the loop waits for. Or the worker itself arms the
//! connection again.
//!
//! Reproduce:
//! 1. `cargo run -p pitfalls --bin main-waits-for-worker`
//! 2. In a second terminal: `head -c 200M /dev/zero | nc 127.0.0.1 7000 | sleep 60`. This client
//!    does not read, so the worker waits for it.
//! 3. In a third terminal: `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//!
//! Correct: in `reactor-chat/src/main.rs` the main thread queues the event and waits for the next
//! one.

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{BUFFER_SIZE, ECHO_ADDR, read, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{epoll, lock, write_all};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let (jobs, queue) = mpsc::channel();
        let (done, results) = mpsc::channel();
        let queue: Arc<Mutex<Receiver<Arc<TcpStream>>>> = Arc::new(Mutex::new(queue));
        for _ in 0..4 {
            let queue = Arc::clone(&queue);
            let done = done.clone();
            thread::Builder::new().spawn(move || -> Option<()> {
                loop {
                    let stream = lock(&queue).recv().ok()?;
                    done.send(process(&stream)).ok()?;
                }
            })?;
        }
        let new = |stream, _| Ok(Arc::new(stream));
        epoll(&addr, EpollFlags::EPOLLIN, new, |_, stream: &mut Arc<TcpStream>, _| {
            jobs.send(Arc::clone(stream)).map_err(io::Error::other)?;
            results.recv().map_err(io::Error::other)? // <- the mistake: the loop waits here
        })
    })
}

/// Returns whether to keep the connection. A worker may block until the client reads.
fn process(stream: &TcpStream) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER_SIZE];
    let Some(count) = read(stream, &mut buffer)? else { return Ok(true) };
    write_all(stream, &buffer[..count])?;
    Ok(count > 0)
}
