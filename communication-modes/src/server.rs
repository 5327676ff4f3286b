//! A server with one thread per connection, as in `blocking-echo`.

use std::io;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Accepted, accept, announce, exit_on_stop, listen};
use log::{info, warn};

use crate::DeadlineStream;

/// The most connections that a server has open at the same time. Further ones wait in the kernel's
/// queue.
pub const MAX_CONNECTIONS: usize = 1000;

/// Time until `accept` is tried again after it failed, or while too many connections are open.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Limits of the lingering close, in time and in bytes.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;

/// Listens on `addr` and serves until SIGINT or SIGTERM ends the process.
///
/// # Errors
/// The address cannot be parsed, resolved or bound.
pub fn run_server<C>(addr: &str, max_connections: usize, converse: C) -> anyhow::Result<()>
where
    C: Fn(&Arc<TcpStream>) -> anyhow::Result<()> + Send + Sync + 'static,
{
    let listener = listen(addr)?;
    exit_on_stop()?;
    announce(listener.local_addr()?);
    serve(&listener, max_connections, converse)
}

/// Calls `converse` for each connection, in a thread of its own. At most `max_connections` are open
/// at the same time. After `converse` has returned, a lingering close gives the peer up to 1 s to
/// receive its last output.
///
/// The stream is in an `Arc` because the thread of one connection may write to another.
pub fn serve<C>(listener: &TcpListener, max_connections: usize, converse: C) -> !
where
    C: Fn(&Arc<TcpStream>) -> anyhow::Result<()> + Send + Sync + 'static,
{
    let converse = Arc::new(converse);
    let mut is_full = false;
    loop {
        // Each thread has one clone, and this function has the original: `strong_count` is the
        // number of connections plus one.
        if Arc::strong_count(&converse) > max_connections {
            if !is_full {
                warn!("paused accepting: {max_connections} connections are open");
            }
            is_full = true;
            thread::sleep(ACCEPT_RETRY);
            continue;
        }
        is_full = false;
        match accept(listener) {
            Accepted::Connection(stream, peer) => {
                let converse = Arc::clone(&converse);
                let thread = thread::Builder::new().spawn(move || {
                    let stream = Arc::new(stream);
                    match converse(&stream) {
                        Ok(()) => info!("{peer} disconnected"),
                        Err(error) => info!("{peer} disconnected: {error:#}"),
                    }
                    linger(&stream);
                });
                // EAGAIN: the limit on threads. The closure is dropped, which closes the
                // connection.
                if let Err(error) = thread {
                    warn!("{peer} refused: {error}");
                }
            }
            Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
        }
    }
}

/// Lingering close: reads and discards what the peer still sends, until it closes.
///
/// Closing a socket with unread input sends RST, and RST discards output that the peer has not read
/// yet (RFC 9112, 9.6). The limits are for a peer that does not stop sending: it gets the RST.
fn linger(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let stream = DeadlineStream::new(stream, Instant::now() + LINGER_TIME);
    let _ = io::copy(&mut stream.take(LINGER_BYTES), &mut io::sink());
}
