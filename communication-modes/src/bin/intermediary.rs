//! Asynchronous point-to-point through an intermediary: clients know one address, and something
//! in the middle decides which of several servers gets the connection.
//!
//! ```text
//!      client               intermediary                 backends
//!  (1) connect ───────────▶ accept
//!                       (2) connect ──────────────────▶  7000: refused, so it is down
//!                       (2) connect ──────────────────▶  7002: accept
//!  (3) bytes ─────────────▶ read, write ──────────────▶  bytes
//!  (4) bytes ◀───────────── write, read ◀──────────────  bytes
//!  (5) FIN ───────────────▶ read = 0, shutdown(WR) ───▶  FIN
//! ```
//!
//! A connection: (1) it is accepted; (2) the backends get their turns, one that does not answer is
//! down, and the next is tried before the client has noticed anything; (3) one thread copies one
//! way and (4) another the other way, each reading only once its last write is done: backpressure;
//! (5) the end of one way is handed on, while the other way goes on: half-close.
//! (6) A backend that is down gets no clients until it takes a connection again.
//!
//! Run: `cargo run -p communication-modes --bin intermediary`, or in front of real servers:
//!
//! ```text
//! $ cargo run -p epoll-echo 127.0.0.1:7000
//! $ cargo run -p poll-echo 127.0.0.1:7002
//! $ cargo run -p communication-modes --bin intermediary 127.0.0.1:7100 \
//!       127.0.0.1:7000 127.0.0.1:7002
//! $ nc 127.0.0.1 7100
//! hello
//! hello
//! ```
//!
//! Use it when: servers come and go, or one is not enough, and the clients should not know.
//! Limits: it is the one part that must not fail. It moves bytes and does not know what they mean:
//! the connections of a backend that dies are lost, for nobody can say what it had done with their
//! requests. A connection costs two threads and two descriptors; a peer that vanishes without a FIN
//! is only missed once somebody sends. The backends see its address, not their clients'. Next:
//! nginx, which does the same with `communication-modes/nginx.conf`.
//! Compare with: `blocking-echo/src/main.rs` (a copy from one socket to itself).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use common::{Misuse, announce, exit_on_stop, listen, run_roles};
use communication_modes::{CONNECTIONS, Process, connect, resolve, serve};
use log::{info, trace, warn};
use nix::sys::resource::{Resource, getrlimit};

const USAGE: &str = "\
Usage: intermediary                      a demonstration
       intermediary LISTEN BACKEND...    hand on the connections to LISTEN in turns
       intermediary backend ADDR         a server to try it with
";
/// As in `blocking-echo`: on the stack of each thread.
const BUFFER: usize = 16 * 1024;
/// How long a backend may take to accept.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at the backends that are down.
const LOOK: Duration = Duration::from_millis(500);
/// Descriptors that are not for connections: the standard ones, the listener, a few to spare.
const SPARE: u64 = 16;

struct Backend {
    addr: SocketAddr,
    down: AtomicBool,
}

struct Backends {
    all: Vec<Backend>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

fn main() -> ExitCode {
    run_roles(USAGE, |args| match args {
        [] => demonstrate(),
        ["backend", addr] => be_backend(addr),
        [addr, backends @ ..] if !backends.is_empty() => {
            exit_on_stop()?;
            let backends = Arc::new(Backends::new(backends)?);
            let looker = Arc::clone(&backends);
            let listener = listen(addr)?;
            announce(listener.local_addr()?);
            thread::Builder::new().spawn(move || looker.look_after())?;
            // Two descriptors each: with one of them for all, all would wait for the other.
            let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
            let limit = descriptors.saturating_sub(SPARE) / 2;
            serve(&listener, limit.max(1) as usize, move |client| backends.hand_on(client))
        }
        _ => bail!(Misuse),
    })
}

impl Backends {
    fn new(addrs: &[&str]) -> anyhow::Result<Self> {
        let backend =
            |addr: &&str| Ok(Backend { addr: resolve(addr)?, down: AtomicBool::new(false) });
        let all = addrs.iter().map(backend).collect::<anyhow::Result<_>>()?;
        Ok(Self { all, turn: AtomicUsize::new(0) })
    }

    /// Finds a backend for a client that has come (1), and copies both ways.
    fn hand_on(&self, client: &TcpStream) -> anyhow::Result<()> {
        let backend = self.connect()?;
        thread::scope(|scope| {
            // At the system's limit on threads, both connections are closed.
            thread::Builder::new().spawn_scoped(scope, || copy(&backend, client))?; // (4)
            copy(client, &backend); // (3)
            Ok(())
        })
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let count = self.all.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let (down, up): (Vec<_>, Vec<_>) = (first..first + count)
            .map(|turn| &self.all[turn % count])
            .partition(|backend| backend.down.load(Ordering::Relaxed));
        // Those that are down come last: where all are, one may just have come back.
        for backend in up.iter().chain(&down) {
            match TcpStream::connect_timeout(&backend.addr, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) if is_its_own(&error) => {
                    if !backend.down.swap(true, Ordering::Relaxed) {
                        warn!("{} is down: {error}", backend.addr);
                    }
                }
                // Out of descriptors, ports or memory: that is us, and the next would not help.
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no backend takes it")
    }

    /// Welcomes back those that were down (6). To connect is to ask: such a backend sees a client
    /// come and leave.
    fn look_after(&self) {
        loop {
            thread::sleep(LOOK);
            for backend in self.all.iter().filter(|backend| backend.down.load(Ordering::Relaxed)) {
                if TcpStream::connect_timeout(&backend.addr, PATIENCE).is_ok() {
                    backend.down.store(false, Ordering::Relaxed);
                    info!("{} is back", backend.addr);
                }
            }
        }
    }
}

/// Whether a connect that failed says something of the other side.
fn is_its_own(error: &io::Error) -> bool {
    use ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    [ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut]
        .contains(&error.kind())
}

/// Copies one way until its end, and hands that on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let (source, sink) = (from.as_raw_fd(), to.as_raw_fd());
    let mut buffer = [0; BUFFER];
    loop {
        trace!("wait: read({source})");
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => {
                // It is lost, and takes nothing either: no use in the other way.
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        trace!("copy: read({source}) = {count}");
        if to.write_all(&buffer[..count]).is_err() {
            // What the other side said before it was lost may still be under way: the thread of
            // the other way will find the end of that, and then its own.
            return;
        }
        trace!("copy: write({sink}), all {count}");
    }
    let _ = to.shutdown(Shutdown::Write); // (5)
}

fn demonstrate() -> anyhow::Result<()> {
    let mut one = Process::server("backend 1", &["backend", "127.0.0.1:0"])?;
    let two = Process::server("backend 2", &["backend", "127.0.0.1:0"])?;
    let args = ["127.0.0.1:0", &one.addr, &two.addr];
    let middle = Process::server("intermediary", &args)?;
    let ask = |what: &str| -> anyhow::Result<()> {
        let mut stream = connect(&middle.addr, Instant::now() + PATIENCE)?;
        stream.write_all(what.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        println!("{:<12} | {}", "client", io::read_to_string(stream)?);
        Ok(())
    };
    println!("--- the backends get their turns");
    ["one", "two", "three"].into_iter().try_for_each(ask)?;
    println!("--- backend 1 is killed: the clients do not notice");
    one.kill()?;
    ["four", "five", "six"].into_iter().try_for_each(ask)?;
    println!("--- it comes back");
    let _one = Process::server("backend 1", &["backend", &one.addr])?;
    middle.expect("is back")?;
    ["seven", "eight"].into_iter().try_for_each(ask)
}

/// An echo server that says first who it is.
fn be_backend(addr: &str) -> anyhow::Result<()> {
    exit_on_stop()?;
    let listener = listen(addr)?;
    announce(listener.local_addr()?);
    serve(&listener, CONNECTIONS, |stream| {
        write!(&**stream, "{} says ", stream.local_addr()?)?;
        copy(stream, stream);
        Ok(())
    })
}
