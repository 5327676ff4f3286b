//! `io_uring` with provided buffers as `uring-echo-buffers`, but with multishot receives: one receive
//! per connection completes each time that data arrives.
//!
//! It shows what a receive per message costs. It reads on while output is pending, so a client that
//! does not read takes all buffers, and no other client is served. It ends if `accept` fails.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use common::Accepted;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use uring_echo::{
    Buffers, Filled, accept_operation, accept_result, enter, io_result, new_ring, queue,
};

/// As in `uring-echo-buffers`.
const MAX_OPERATIONS: u32 = 256;
const BUFFER_COUNT: u16 = 64;
/// The buffer ring that [`Buffers`] registers.
const GROUP: u16 = 0;
/// User data of a send: the file descriptor and this bit.
const SEND: u64 = 1 << 63;

struct Connection {
    /// Keeps the socket open.
    _stream: TcpStream,
    /// Received data. The first one is being sent.
    filled: VecDeque<Filled>,
    /// EOF or an error.
    ended: bool,
}

struct Server {
    ring: IoUring,
    completions: Vec<cqueue::Entry>,
    buffers: Buffers,
    connections: HashMap<RawFd, Connection>,
    /// Connections whose receive has ended because no buffer was free.
    waiting: Vec<RawFd>,
}

fn main() -> anyhow::Result<()> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = common::listen(&addr)?;
    let ring = new_ring(MAX_OPERATIONS)?;
    let buffers = Buffers::register(&ring, BUFFER_COUNT, baseline::BUFFER_SIZE)?;
    println!("reference-uring-multishot listening on {}", listener.local_addr()?);
    let (completions, waiting) = (Vec::new(), Vec::new());
    let mut server = Server { ring, completions, buffers, connections: HashMap::new(), waiting };
    let listener = listener.as_raw_fd();
    server.queue(listener as u64, accept_operation(listener))?;
    loop {
        enter(&server.ring, server.completions.is_empty().into(), None)?;
        server.completions.extend(server.ring.completion());
        for completion in std::mem::take(&mut server.completions) {
            let fd = (completion.user_data() & !SEND) as RawFd;
            if fd == listener {
                server.accepted(&completion)?;
                server.queue(listener as u64, accept_operation(listener))?;
            } else if completion.user_data() & SEND == 0 {
                server.received(fd, &completion)?;
            } else {
                server.sent(fd)?;
            }
        }
    }
}

impl Server {
    fn queue(&mut self, user_data: u64, operation: squeue::Entry) -> anyhow::Result<()> {
        // SAFETY: a buffer is given back only when its send has completed.
        unsafe { queue(&mut self.ring, &operation.user_data(user_data), &mut self.completions) }
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> anyhow::Result<()> {
        let accepted = accept_result(io_result(completion));
        let Some(Accepted::Connection(stream, _)) = accepted else { return Ok(()) };
        let fd = stream.as_raw_fd();
        let connection = Connection { _stream: stream, filled: VecDeque::new(), ended: false };
        self.connections.insert(fd, connection);
        self.receive(fd)
    }

    fn receive(&mut self, fd: RawFd) -> anyhow::Result<()> {
        self.queue(fd as u64, opcode::RecvMulti::new(Fd(fd), GROUP).build())
    }

    fn received(&mut self, fd: RawFd, completion: &cqueue::Entry) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        if let Some(filled) = self.buffers.filled(completion) {
            connection.filled.push_back(filled);
            if connection.filled.len() == 1 {
                self.send(fd)?;
            }
        }
        if cqueue::more(completion.flags()) {
            return Ok(());
        }
        match io_result(completion) {
            Ok(1..) => return self.receive(fd),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.waiting.push(fd),
            _ => self.end(fd),
        }
        Ok(())
    }

    fn send(&mut self, fd: RawFd) -> anyhow::Result<()> {
        let first = self.connections.get(&fd).and_then(|connection| connection.filled.front());
        let Some(bytes) = first.map(|filled| self.buffers.bytes(filled)) else { return Ok(()) };
        // With MSG_WAITALL, the kernel sends all of it before the operation completes.
        let send = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        self.queue(fd as u64 | SEND, send.flags(libc::MSG_WAITALL).build())
    }

    fn sent(&mut self, fd: RawFd) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&fd) else { return Ok(()) };
        if let Some(filled) = connection.filled.pop_front() {
            self.buffers.give_back(filled);
        }
        if connection.ended {
            self.end(fd); // also after a send that has failed, because the receive fails too
        }
        self.send(fd)?;
        for fd in std::mem::take(&mut self.waiting) {
            self.receive(fd)?;
        }
        Ok(())
    }

    /// Closes a connection, or marks it to be closed when everything is sent.
    fn end(&mut self, fd: RawFd) {
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        connection.ended = true;
        if connection.filled.is_empty() {
            self.connections.remove(&fd);
        }
    }
}
