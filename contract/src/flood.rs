//! A client that sends and receives as fast as it can, from threads of its own.

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

/// The most that it sends at once.
const CHUNK: usize = 256 * 1024;
/// How long it waits at most before it checks whether it has to stop.
const CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A flooding client. Dropping it stops it.
///
/// It has one thread per direction. So the server always has input to read and space to write,
/// unless the server itself is slow.
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
    received: AtomicU64,
}

impl Flood {
    /// Connects and starts to send requests. Returns when the first bytes have come back.
    pub fn start(server: &Server) -> Result<Self> {
        Self::start_with(server, &server.probe().request(0, 1))
    }

    /// The same, but sends `bytes` over and over.
    pub fn start_with(server: &Server, bytes: &[u8]) -> Result<Self> {
        let stream = Client::connect(server)?.into_stream();
        stream.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            stream,
            chunk: bytes.repeat(CHUNK / bytes.len()),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let mut flood = Self { shared, threads: Vec::new() };
        for direction in [Shared::send, Shared::receive] {
            let shared = Arc::clone(&flood.shared);
            flood.threads.push(thread::Builder::new().spawn(move || direction(&shared))?);
        }
        wait_until("a response to the flooding client", timeout(), || {
            Ok((flood.received() > 0).then_some(()))
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
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Stops. Fails if the server has closed the connection.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread of the flood panicked"))??;
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
        let mut offset = 0;
        self.repeat(PollFlags::OUT, || {
            let count = (&self.stream).write(&self.chunk[offset..])?;
            offset = (offset + count) % self.chunk.len();
            self.sent.fetch_add(count as u64, Ordering::Relaxed);
            Ok(())
        })
    }

    fn receive(&self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        self.repeat(PollFlags::IN, || {
            // With TRUNC the kernel discards the bytes and copies nothing (tcp(7)). So this client
            // is faster than a server, which has to copy them twice.
            let (_, count) = recv(&self.stream, &mut buffer[..], RecvFlags::TRUNC)?;
            self.received.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        })
    }

    /// Calls `call` until it fails or the flood stops. Waits for `ready` when it would block.
    fn repeat(&self, ready: PollFlags, mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            match call() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.stream, ready)], Some(&CHECK))?;
                }
                result => result?,
            }
        }
        Ok(())
    }
}
