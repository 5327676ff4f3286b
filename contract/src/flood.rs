//! A peer that sends and receives as fast as it can, from threads of its own.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};

use crate::wait::{timeout, wait_until};
use crate::{Client, Server};

/// Sent at once.
const CHUNK: usize = 256 * 1024;
/// How soon it notices that it is to stop.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A flooding peer. It stops when dropped.
///
/// It has a thread for each direction, so that it is never its own fault that there is nothing
/// to read for the server, or no room to write.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    chunk: Vec<u8>,
    stop: AtomicBool,
    sent: AtomicU64,
    echoed: AtomicU64,
}

impl Flood {
    /// Connects and begins; returns when the first bytes have come back.
    pub fn start(server: &Server) -> Result<Self> {
        Self::start_with(server, &[0])
    }

    /// The same; what it sends is `bytes`, again and again.
    pub fn start_with(server: &Server, bytes: &[u8]) -> Result<Self> {
        let stream = Client::connect(server)?.into_stream();
        stream.set_nonblocking(true)?;
        let stop = AtomicBool::new(false);
        let chunk = bytes.repeat(CHUNK / bytes.len());
        let (sent, echoed) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { stream, chunk, stop, sent, echoed });
        let mut flood = Self { shared, threads: Vec::new() };
        for direction in [Shared::send, Shared::receive] {
            let shared = Arc::clone(&flood.shared);
            flood.threads.push(thread::Builder::new().spawn(move || direction(&shared))?);
        }
        wait_until("an echo to the flooding peer", timeout(), || {
            Ok((flood.echoed() > 0).then_some(()))
        })?;
        Ok(flood)
    }

    /// How many bytes the server or its socket has taken.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// How many bytes have come back.
    #[must_use]
    pub fn echoed(&self) -> u64 {
        self.shared.echoed.load(Ordering::Relaxed)
    }

    /// Stops; an error where the server ended the connection before.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a flooding thread panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn send(&self) -> io::Result<()> {
        let mut at = 0;
        self.whenever(PollFlags::OUT, || {
            let count = (&self.stream).write(&self.chunk[at..])?;
            at = (at + count) % self.chunk.len();
            self.sent.fetch_add(count as u64, Ordering::Relaxed);
            Ok(())
        })
    }

    fn receive(&self) -> io::Result<()> {
        let mut room = vec![0; CHUNK];
        self.whenever(PollFlags::IN, || {
            // `TRUNC`: a TCP socket throws the bytes away and copies nothing, so that this peer
            // is faster than a server that has to copy them twice.
            let (_, count) = recv(&self.stream, &mut room[..], RecvFlags::TRUNC)?;
            self.echoed.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        })
    }

    fn whenever(
        &self,
        ready: PollFlags,
        mut call: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            match call() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.stream, ready)], Some(&GLANCE))?;
                }
                result => result?,
            }
        }
        Ok(())
    }
}
