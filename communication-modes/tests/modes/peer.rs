//! The other side of a connection, played by the test.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::TIMEOUT;

/// One end of a connection. Each call ends within [`TIMEOUT`].
#[derive(Debug)]
pub struct Peer {
    input: BufReader<TcpStream>,
    /// Whether [`line`](Self::line) answers a `PING` of the NATS protocol, and reads the next line.
    answers_pings: bool,
}

impl Peer {
    pub fn connect(addr: &str) -> Result<Self> {
        Self::new(TcpStream::connect(addr).with_context(|| addr.to_owned())?)
    }

    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { input: BufReader::new(stream), answers_pings: false })
    }

    /// Answers each `PING` of the NATS protocol. nats-server sends one 2 s after the start of a
    /// connection, so it can come between any two lines of a test that is slow.
    pub fn answering_pings(mut self) -> Self {
        self.answers_pings = true;
        self
    }

    pub fn stream(&self) -> &TcpStream {
        self.input.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.input.get_mut().write_all(bytes.as_ref()).context("send")
    }

    /// Half-closes the connection.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.stream().shutdown(Shutdown::Write)?)
    }

    /// Closes the connection with RST.
    pub fn reset(self) -> Result<()> {
        Ok(SockRef::from(self.stream()).set_linger(Some(Duration::ZERO))?)
    }

    /// Reads one line, and returns it without its end.
    pub fn line(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            let count = self.input.read_line(&mut line).context("line")?;
            ensure!(count > 0, "the end, where a line was expected");
            if self.answers_pings && line == "PING\r\n" {
                self.send("PONG\r\n")?;
                continue;
            }
            return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
        }
    }

    /// Expects `lines`, in this order.
    pub fn lines(&mut self, lines: &[&str]) -> Result<()> {
        for line in lines {
            let received = self.line().with_context(|| format!("expected {line:?}"))?;
            ensure!(received == *line, "received {received:?}, expected {line:?}");
        }
        Ok(())
    }

    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads until the end, which must be a FIN and not an RST.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.input.read_to_end(&mut rest).context("rest")?;
        Ok(rest)
    }

    /// Waits until the connection ends, with FIN or RST.
    pub fn wait_closed(&mut self) -> Result<()> {
        match self.rest() {
            Ok(_) => Ok(()),
            Err(error) => match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
                Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
                _ => bail!("not closed: {error:#}"),
            },
        }
    }

    /// Sends until the other side takes no more, and returns how many bytes it has taken. More than
    /// `limit` is a failure.
    pub fn send_until_stuck(&mut self, limit: usize) -> Result<usize> {
        let block = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        self.stream().set_write_timeout(Some(Duration::from_millis(300)))?;
        let result = loop {
            match self.input.get_mut().write(&block) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(sent),
                Err(error) => break Err(error.into()),
            }
            if sent > limit {
                bail!("{sent} bytes were taken, although nobody reads them");
            }
        };
        self.stream().set_write_timeout(Some(TIMEOUT))?;
        result
    }
}

/// A server that the test plays.
pub struct Listener {
    listener: TcpListener,
    pub addr: String,
}

impl Listener {
    pub fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?.to_string();
        Ok(Self { listener, addr })
    }

    pub fn accept(&self) -> Result<Peer> {
        let (sender, receiver) = mpsc::channel();
        let listener = self.listener.try_clone()?;
        thread::spawn(move || sender.send(listener.accept()));
        let (stream, _) = receiver.recv_timeout(TIMEOUT).context("no connection")??;
        Peer::new(stream)
    }

    /// Accepts one connection in a thread of its own, and passes it to `converse`.
    pub fn serve<T: Send + 'static>(
        self,
        converse: impl FnOnce(Peer) -> Result<T> + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        thread::spawn(move || converse(self.accept()?))
    }
}

/// An address that refuses connections. The kernel gives its port to nobody else, until it is
/// [opened](Self::open), or a server that sets `SO_REUSEADDR` listens on it.
pub struct ClosedPort {
    socket: Socket,
    pub addr: String,
}

impl ClosedPort {
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

    pub fn open(self) -> Result<Listener> {
        self.socket.listen(128)?;
        Ok(Listener { listener: self.socket.into(), addr: self.addr })
    }
}
