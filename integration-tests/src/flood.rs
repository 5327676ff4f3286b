//! A peer that sends and receives as fast as it can, from a thread of its own.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::wait::{PATIENCE, until};
use crate::{Client, Running};

/// Sent at once.
const CHUNK: usize = 256 * 1024;
/// How soon it notices that it is to stop.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A flooding peer. It stops when dropped.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    echoed: AtomicU64,
}

impl Flood {
    /// Connects and begins; returns when the first bytes have come back.
    pub fn start(running: &Running) -> Result<Self> {
        let stream = Client::connect(running)?.into_stream();
        stream.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().spawn(move || flood(&stream, &of_thread))?;
        let flood = Self { shared, thread: Some(thread) };
        until("an echo to the flooding peer", PATIENCE, || Ok((flood.echoed() > 0).then_some(())))?;
        Ok(flood)
    }

    /// How many bytes have come back.
    #[must_use]
    pub fn echoed(&self) -> u64 {
        self.shared.echoed.load(Ordering::Relaxed)
    }

    /// Stops; an error where the server ended the connection before.
    pub fn stop(mut self) -> Result<()> {
        match self.join() {
            Some(Ok(result)) => Ok(result?),
            _ => Err(anyhow!("the flooding thread panicked")),
        }
    }

    fn join(&mut self) -> Option<thread::Result<io::Result<()>>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.join();
    }
}

fn flood(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let chunk = vec![0; CHUNK];
    let mut room = vec![0; CHUNK];
    while !shared.stop.load(Ordering::Relaxed) {
        poll(&mut [PollFd::new(stream, PollFlags::IN | PollFlags::OUT)], Some(&GLANCE))?;
        // `TRUNC`: a TCP socket throws the bytes away and copies nothing, so that this peer is
        // faster than a server that has to copy them twice.
        match recv(stream, &mut room[..], RecvFlags::TRUNC) {
            Ok((_, 0)) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok((_, count)) => drop(shared.echoed.fetch_add(count as u64, Ordering::Relaxed)),
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        match stream.write(&chunk) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
