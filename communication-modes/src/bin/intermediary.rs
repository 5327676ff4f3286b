//! Point-to-point through an intermediary (a proxy): clients know one address. The program that
//! listens there passes each connection on to one of several servers, the backends.
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
//! How a connection travels: (1) The intermediary accepts it, and (2) connects to the next backend
//! in turn. If that backend does not answer, it is marked as down, and another is tried. The client
//! waits up to 1 s longer for each backend that does not answer. If no backend accepts, the
//! intermediary closes the client's connection. (3) One thread copies from the client to the backend, and (4)
//! another thread copies back. A thread does not read again before its last write is complete: this
//! is the backpressure. (5) At the end of one direction, the thread sends a FIN to the other side,
//! and the other direction continues: half-close. (6) A backend that is down gets no clients. One
//! thread tries the backends that are down, one after the other, and pauses for half a second
//! between rounds.
//!
//! The catch: if a backend on this machine is dead, `connect` to its port can succeed all the same,
//! because TCP can connect a socket to itself. `connect_one` in
//! `communication-modes/src/connect.rs` explains this, and refuses such a connection.
//!
//! Run: `cargo run -p communication-modes --bin intermediary`, or with real servers:
//!
//! ```text
//! $ cargo run -p epoll-echo 127.0.0.1:7000
//! $ cargo run -p poll-echo 127.0.0.1:7002
//! $ cargo run -p communication-modes --bin intermediary 127.0.0.1:7300 \
//!       127.0.0.1:7000 127.0.0.1:7002
//! $ nc 127.0.0.1 7300
//! hello
//! hello
//! ```
//!
//! Use it when: one server is not enough, or servers fail and come back while clients run.
//! Limits: if the intermediary fails, no client reaches any backend. It copies bytes and does not
//! parse them, so it cannot repeat a request: if a backend dies, its connections are lost. A
//! connection costs two threads and two file descriptors. The backends see the address of the
//! intermediary, not those of the clients. Next: `HAProxy`, or nginx, which does the same with
//! `communication-modes/nginx.conf`.
//! Compare with: `blocking-echo/src/main.rs` (reads from a socket and writes back to it).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use common::{announce, exit_on_stop, listen};
use communication_modes::{
    MAX_CONNECTIONS, Misuse, Process, connect, connect_any, resolve, run_roles, run_server, serve,
};
use log::{info, trace, warn};
use nix::sys::resource::{Resource, getrlimit};

const USAGE: &str = "\
Usage: intermediary                      run a demonstration
       intermediary ADDR BACKEND...      pass connections on to the BACKENDs
       intermediary backend ADDR         run a server to try it with
";
/// Size of the buffer on the stack of each thread.
const BUFFER_SIZE: usize = 16 * 1024;
/// How long a backend may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the backends that are down are tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// File descriptors that are not available to connections: stdin, stdout, stderr, the listener, and
/// a reserve.
const RESERVED_FDS: u64 = 16;

struct Backend {
    /// As it is on the command line.
    name: String,
    addrs: Vec<SocketAddr>,
    is_down: AtomicBool,
}

struct Backends {
    all: Vec<Backend>,
    /// Counts the connections: the backends take turns.
    turn: AtomicUsize,
}

fn main() -> ExitCode {
    run_roles(USAGE, |args| match args {
        [] => demonstrate(),
        ["backend", addr] => run_server(addr, MAX_CONNECTIONS, |stream| {
            write!(&**stream, "{} says ", stream.local_addr()?)?;
            copy(stream, stream); // like an echo server
            Ok(())
        }),
        [addr, backends @ ..] if !backends.is_empty() => {
            let backends = Arc::new(Backends::new(backends)?);
            let listener = listen(addr)?;
            exit_on_stop()?;
            let prober = Arc::clone(&backends);
            thread::Builder::new().spawn(move || prober.probe())?;
            // A connection needs two file descriptors. If more connections were accepted, `connect`
            // to the backend would fail with EMFILE.
            let (fds, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
            let max_connections = (fds.saturating_sub(RESERVED_FDS) / 2).max(1) as usize;
            announce(listener.local_addr()?);
            serve(&listener, max_connections, move |client| backends.pass_on(client))
        }
        _ => bail!(Misuse),
    })
}

impl Backends {
    fn new(names: &[&str]) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for &name in names {
            let (addrs, is_down) = (resolve(name)?, AtomicBool::new(false));
            all.push(Backend { name: name.to_owned(), addrs, is_down });
        }
        Ok(Self { all, turn: AtomicUsize::new(0) })
    }

    /// Connects a client (1) to a backend, and copies in both directions.
    fn pass_on(&self, client: &TcpStream) -> anyhow::Result<()> {
        let backend = self.connect()?;
        thread::scope(|scope| {
            // At the limit on threads, `spawn_scoped` fails, and both connections are closed.
            thread::Builder::new().spawn_scoped(scope, || copy(&backend, client))?; // (4)
            copy(client, &backend); // (3)
            Ok(())
        })
    }

    /// Connects to the backend whose turn it is, or to the next one that is not down (2).
    fn connect(&self) -> anyhow::Result<TcpStream> {
        let count = self.all.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let (down, up): (Vec<_>, Vec<_>) = (first..first + count)
            .map(|turn| &self.all[turn % count])
            .partition(|backend| backend.is_down.load(Ordering::Relaxed));
        // If all are down, try them all the same: one may have come back since the last probe.
        for backend in up.iter().chain(&down) {
            match connect_any(&backend.addrs, Instant::now() + CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) if is_fault_of_backend(&error) => {
                    if !backend.is_down.swap(true, Ordering::Relaxed) {
                        warn!("{} is down: {error}", backend.name);
                    }
                }
                // Out of file descriptors, ports or memory: another backend would not help.
                Err(error) => return Err(error.into()),
            }
        }
        bail!("all backends are down")
    }

    /// Tries the backends that are down, until they accept a connection again (6). To the backend,
    /// this looks like a client that connects and disconnects.
    fn probe(&self) {
        loop {
            thread::sleep(PROBE_INTERVAL);
            for backend in self.all.iter().filter(|it| it.is_down.load(Ordering::Relaxed)) {
                if connect_any(&backend.addrs, Instant::now() + CONNECT_TIMEOUT).is_ok() {
                    backend.is_down.store(false, Ordering::Relaxed);
                    info!("{} is up again", backend.name);
                }
            }
        }
    }
}

/// Returns whether a failed connect says something about the backend, and not about this process.
fn is_fault_of_backend(error: &io::Error) -> bool {
    use ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    [ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut]
        .contains(&error.kind())
}

/// Copies in one direction until its end, and passes the end on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let (source, sink) = (from.as_raw_fd(), to.as_raw_fd());
    let mut buffer = [0; BUFFER_SIZE];
    loop {
        trace!("wait: read({source})");
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => {
                // The connection has failed, for reading and for writing: end both directions.
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        trace!("copy: read({source}) = {count}");
        if to.write_all(&buffer[..count]).is_err() {
            // `to` has failed. It may have sent data before that, which is still in our receive
            // buffer. The thread of the other direction reads that data, and then gets the end or
            // an error.
            return;
        }
        trace!("copy: write({sink}) = {count} of {count}");
    }
    let _ = to.shutdown(Shutdown::Write); // (5)
}

fn demonstrate() -> anyhow::Result<()> {
    let mut one = Process::server("backend 1", &["backend", "127.0.0.1:0"])?;
    let two = Process::server("backend 2", &["backend", "127.0.0.1:0"])?;
    let intermediary = Process::server("intermediary", &["127.0.0.1:0", &one.addr, &two.addr])?;
    let send = |text: &str| -> anyhow::Result<()> {
        let mut stream = connect(&intermediary.addr, Instant::now() + CONNECT_TIMEOUT)?;
        stream.write_all(text.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        println!("{:<12} | {}", "client", io::read_to_string(stream)?);
        Ok(())
    };
    println!("--- the backends take turns");
    ["one", "two", "three"].into_iter().try_for_each(send)?;
    println!("--- backend 1 is killed: all clients get backend 2");
    one.kill()?;
    ["four", "five", "six"].into_iter().try_for_each(send)?;
    println!("--- it comes back");
    let _one = Process::server("backend 1", &["backend", &one.addr])?;
    intermediary.expect("is up again")?;
    ["seven", "eight"].into_iter().try_for_each(send)
}
