//! What the tests share: the programs, peers for them, and trials that can be seen to be skipped.

use std::env;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use communication_modes::Process;
use libtest_mimic::Trial;
use socket2::{Domain, SockRef, Socket, Type};

/// How long anything may take that is sure to come. On a busy machine it may be slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A test and its name; `T` is what it is run on.
pub type Check<T> = (&'static str, fn(T) -> Result<()>);

/// A trial `name`, which is ignored, and says why, where `missing` says what it would need.
pub fn trial(
    name: impl Into<String>,
    missing: Option<&str>,
    test: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let run = move || test().map_err(|error| format!("{error:#}").into());
    let trial = Trial::test(name, run);
    match missing {
        None => trial,
        Some(what) => trial.with_kind(format!("skipped: no {what}")).with_ignored_flag(true),
    }
}

/// The trials of a module, from its functions.
macro_rules! trials {
    ($module:literal: $($name:ident)*) => {
        vec![$($crate::support::trial(concat!($module, "::", stringify!($name)), None, $name)),*]
    };
}
pub(crate) use trials;

/// `Some(name)` where there is no such program.
pub fn missing(name: &'static str) -> Option<&'static str> {
    let paths = env::var_os("PATH").unwrap_or_default();
    // Debian has nginx and nats-server where root's PATH leads, and other users' does not.
    let mut places = env::split_paths(&paths).chain(["/usr/sbin".into()]);
    (!places.any(|place| place.join(name).is_file())).then_some(name)
}

/// Where a program that is not [`missing`] is.
pub fn find(name: &'static str) -> String {
    let sbin = format!("/usr/sbin/{name}");
    if Path::new(&sbin).is_file() { sbin } else { name.to_owned() }
}

/// The binary of a mode.
pub fn program(mode: &str) -> &'static Path {
    Path::new(match mode {
        "synchronous" => env!("CARGO_BIN_EXE_synchronous"),
        "callback" => env!("CARGO_BIN_EXE_callback"),
        "intermediary" => env!("CARGO_BIN_EXE_intermediary"),
        "publish-subscribe" => env!("CARGO_BIN_EXE_publish-subscribe"),
        "decentralised" => env!("CARGO_BIN_EXE_decentralised"),
        mode => unreachable!("{mode}"),
    })
}

/// Starts a mode as a server.
pub fn server(mode: &str, args: &[&str]) -> Result<Process> {
    start(mode, args)?.listening()
}

/// Starts a mode.
pub fn start(mode: &str, args: &[&str]) -> Result<Process> {
    Process::start("", program(mode), args)
}

/// Runs a mode to its end, which comes in time.
pub fn run(mode: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "30"]).arg(program(mode)).args(args);
    Ok(command.stdin(Stdio::null()).output()?)
}

/// Checks that a run failed with `status`, nothing on stdout, and one line on stderr with `part`.
pub fn fails(output: &Output, status: i32, part: &str) -> Result<()> {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(status), "{}: {err}", output.status);
    ensure!(out.is_empty() && err.lines().count() == 1 && err.contains(part), "{out:?} {err:?}");
    Ok(())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `what` is so.
pub fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !so()? {
        ensure!(Instant::now() < deadline, "it never came that {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// One end of a connection. Each call ends within [`PATIENCE`].
#[derive(Debug)]
pub struct Peer {
    input: BufReader<TcpStream>,
}

impl Peer {
    pub fn connect(addr: &str) -> Result<Self> {
        Self::new(TcpStream::connect(addr).with_context(|| addr.to_owned())?)
    }

    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { input: BufReader::new(stream) })
    }

    pub fn stream(&self) -> &TcpStream {
        self.input.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.input.get_mut().write_all(bytes.as_ref()).context("send")
    }

    pub fn finish(&mut self) -> Result<()> {
        Ok(self.stream().shutdown(Shutdown::Write)?)
    }

    /// Closes with a reset.
    pub fn reset(self) -> Result<()> {
        Ok(SockRef::from(self.stream()).set_linger(Some(Duration::ZERO))?)
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.input.read_line(&mut line).context("line")? > 0,
            "the end, where a line was due"
        );
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Expects `lines`, in this order.
    pub fn lines(&mut self, lines: &[&str]) -> Result<()> {
        for line in lines {
            let got = self.line()?;
            ensure!(got == *line, "{got:?} came where {line:?} was due");
        }
        Ok(())
    }

    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// All that comes until the end, which is no reset.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.input.read_to_end(&mut rest).context("rest")?;
        Ok(rest)
    }

    /// Waits until the connection is over, by an end or a reset.
    pub fn is_over(&mut self) -> Result<()> {
        match self.rest() {
            Ok(_) => Ok(()),
            Err(error) => match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
                Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
                _ => bail!("not over: {error:#}"),
            },
        }
    }

    /// Sends until for a while nothing more is taken; the count. More than `bound` is a failure.
    pub fn send_until_stuck(&mut self, bound: usize) -> Result<usize> {
        let block = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        self.stream().set_write_timeout(Some(Duration::from_millis(300)))?;
        let result = loop {
            match self.input.get_mut().write(&block) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(sent),
                Err(error) => break Err(error.into()),
            }
            if sent > bound {
                bail!("{sent} bytes were taken from a sender that nobody reads from");
            }
        };
        self.stream().set_write_timeout(Some(PATIENCE))?;
        result
    }
}

/// A listener that the test accepts from.
pub struct Door {
    pub listener: TcpListener,
    pub addr: String,
}

impl Door {
    pub fn open() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?.to_string();
        Ok(Self { listener, addr })
    }

    pub fn accept(&self) -> Result<Peer> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let listener = self.listener.try_clone()?;
        thread::spawn(move || sender.send(listener.accept()));
        let (stream, _) = receiver.recv_timeout(PATIENCE).context("nobody came")??;
        Peer::new(stream)
    }
}

/// An address that refuses connections, and that the kernel gives to nobody else: until it is
/// [`opened`](Self::open), or a server that sets `SO_REUSEADDR` listens on it.
pub struct Shut {
    socket: Socket,
    pub addr: String,
}

impl Shut {
    pub fn new() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let addr = socket.local_addr()?.as_socket().context("no address")?.to_string();
        Ok(Self { socket, addr })
    }

    pub fn port(&self) -> &str {
        self.addr.rsplit(':').next().unwrap_or_default()
    }

    pub fn open(self) -> Result<Door> {
        self.socket.listen(128)?;
        Ok(Door { listener: self.socket.into(), addr: self.addr })
    }
}
