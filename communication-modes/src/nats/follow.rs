//! A subscription that continues with another server when its server is lost, and that ends without
//! losing a message.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use common::stop_socket;
use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::client::Client;
use super::event::{Event, Message};

/// How long a server may be silent. Real servers send a PING every two minutes.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// How long the server may take to send the rest when the subscription ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the client tries to connect again after it has lost the server.
const ATTEMPTS: u32 = 40;
/// The pause before each attempt.
const PAUSE: Duration = Duration::from_millis(250);

/// How waiting for messages has ended.
enum End {
    /// By SIGINT or SIGTERM.
    Stopped,
    /// The connection is lost.
    Lost(anyhow::Error),
}

/// Subscribes, and calls `on_message` for each message until SIGINT or SIGTERM. If the server is
/// lost, continues with the first of `servers` that answers. Messages that are published in the
/// meantime do not arrive.
///
/// # Errors
/// No server answers at the start, or for ten seconds after the loss. The server reports
/// an error. Or `on_message` returns one.
pub fn follow(
    servers: &str,
    subject: &str,
    queue: Option<&str>,
    mut on_message: impl FnMut(&mut Client, Message) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut client = Client::connect(servers)?;
    let stop = stop_socket()?; // until here, a signal ends the process at once
    loop {
        let loss = match begin(&mut client, subject, queue) {
            Ok(sid) => match receive(&mut client, &stop, &mut on_message)? {
                End::Stopped => return drain(&mut client, &sid, &stop, &mut on_message),
                End::Lost(error) => error,
            },
            Err(error) if error.is::<io::Error>() => error,
            Err(error) => return Err(error),
        };
        warn!("the server is lost: {loss:#}");
        let Some(next) = reconnect(servers, &stop)? else { return Ok(()) };
        client = next;
    }
}

/// Subscribes, and waits until the server has handled that. Returns the ID of the subscription.
fn begin(client: &mut Client, subject: &str, queue: Option<&str>) -> anyhow::Result<String> {
    let sid = client.subscribe(subject, queue)?;
    client.flush()?;
    info!("subscribed to {subject}");
    Ok(sid)
}

/// Why [`wait`] returned.
enum Wake {
    Input,
    Stopped,
    TimedOut,
}

/// Waits until the server has sent something, or until SIGINT or SIGTERM.
fn wait(client: &Client, stop: &UnixStream, timeout: Duration) -> anyhow::Result<Wake> {
    let has_buffered = client.has_buffered();
    let timeout = if has_buffered { Duration::ZERO } else { timeout };
    let timeout = PollTimeout::try_from(timeout)?;
    loop {
        let mut fds = [client.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) if fds[1].any() == Some(true) => return Ok(Wake::Stopped),
            Ok(0) if !has_buffered => return Ok(Wake::TimedOut),
            Ok(_) => return Ok(Wake::Input),
            // By the signal whose handler makes `stop` readable.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Handles messages until SIGINT, SIGTERM, or the loss of the connection.
fn receive(
    client: &mut Client,
    stop: &UnixStream,
    on_message: &mut impl FnMut(&mut Client, Message) -> anyhow::Result<()>,
) -> anyhow::Result<End> {
    loop {
        match wait(client, stop, MAX_SILENCE)? {
            Wake::Input => {}
            Wake::Stopped => return Ok(End::Stopped),
            Wake::TimedOut => {
                let reason = format!("nothing received for {} s", MAX_SILENCE.as_secs());
                return Ok(End::Lost(io::Error::other(reason).into()));
            }
        }
        match client.next(Instant::now() + MAX_SILENCE) {
            Ok(Event::Message(message)) => on_message(client, message)?,
            Ok(Event::Pong | Event::Handled) => {}
            Err(error) if error.is::<io::Error>() => return Ok(End::Lost(error)),
            Err(error) => return Err(error),
        }
    }
}

/// Ends the subscription, and handles the messages that the server had sent to us by then. Without
/// that, jobs that a queue group has given to this member would be lost.
///
/// # Errors
/// SIGINT or SIGTERM came a second time, or the server does not confirm the end.
fn drain(
    client: &mut Client,
    sid: &str,
    stop: &UnixStream,
    on_message: &mut impl FnMut(&mut Client, Message) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut first_signal = [0];
    (&*stop).read_exact(&mut first_signal)?;
    client.unsubscribe(sid, None)?;
    client.ping()?;
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    loop {
        match wait(client, stop, deadline.saturating_duration_since(Instant::now()))? {
            Wake::Input => {}
            Wake::Stopped => bail!("stopped before the server confirmed the end"),
            Wake::TimedOut => bail!("the server did not confirm the end"),
        }
        match client.next(deadline).context("the server did not confirm the end")? {
            Event::Message(message) => on_message(client, message)?,
            Event::Pong => return Ok(()),
            Event::Handled => {}
        }
    }
}

/// Returns `None` if SIGINT or SIGTERM came first.
fn reconnect(servers: &str, stop: &UnixStream) -> anyhow::Result<Option<Client>> {
    for _ in 0..ATTEMPTS {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        if matches!(poll(&mut fds, PollTimeout::try_from(PAUSE)?), Ok(1..)) {
            return Ok(None);
        }
        if let Ok(client) = Client::connect(servers) {
            return Ok(Some(client));
        }
    }
    bail!("no server answers")
}
