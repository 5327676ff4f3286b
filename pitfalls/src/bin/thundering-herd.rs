//! Mistake: each thread has an epoll instance of its own, and all of them contain the same listener
//! without EPOLLEXCLUSIVE.
//!
//! Symptom: each new connection wakes all threads, and all but one find nothing to accept. With
//! many threads, accepting takes more CPU time than serving.
//!
//! Rule: the kernel wakes every epoll instance that contains a ready file descriptor. With
//! EPOLLEXCLUSIVE it wakes at least one of them, usually only one. (Threads that block in accept(2)
//! are woken one at a time. With `SO_REUSEPORT` each thread has a listener and a queue of its own.)
//!
//! Reproduce (with OpenBSD's `nc`):
//! 1. `cargo run -p pitfalls --bin thundering-herd`
//! 2. In a second terminal: `switches() { cat /proc/$(pgrep -x thundering-herd)/task/*/status | awk
//!    '/^voluntary/ { n += $2 } END { print n }'; }`
//! 3. `switches; for i in {1..100}; do nc -zN 127.0.0.1 7000; done; switches`. The difference of
//!    the two numbers is about 3000 for 100 connections.
//!
//! Correct: `epoll-echo/src/bin/epoll-echo-exclusive.rs` adds the listener with EPOLLEXCLUSIVE. In
//! `blocking-echo/src/bin/blocking-echo-pool.rs` all threads block in accept(2), and the kernel wakes
//! one of them.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, announce, exit_on_stop, listen, run};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollFlags};
use pitfalls::{echo_step, epoll_loop};

const THREADS: usize = 32;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = Arc::new(listen(&addr)?);
        listener.set_nonblocking(true)?;
        for _ in 1..THREADS {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let listener = Arc::clone(&listener);
            thread::Builder::new().spawn(move || serve(&listener, &epoll))?;
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        exit_on_stop()?;
        announce(listener.local_addr()?);
        serve(&listener, &epoll)
    })
}

fn serve(listener: &TcpListener, epoll: &Epoll) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    // <- the mistake: `epoll_loop` adds the listener without EPOLLEXCLUSIVE
    epoll_loop(listener, epoll, EpollFlags::EPOLLIN, Connection::new, |epoll, connection, _| {
        echo_step(epoll, connection, &mut buffer)
    })
}
