//! A subscription that outlives its server, and that ends without losing a message.

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
/// How often a lost server is looked for, and the pause before each attempt.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// How waiting for messages has ended.
enum End {
    /// By SIGINT or SIGTERM.
    Stopped,
    /// The connection is lost.
    Lost(anyhow::Error),
}

/// Subscribes, and calls `on_message` for each message until SIGINT or SIGTERM. If the server is
/// lost, continues with the first of `servers` that answers. What is published in the meantime
/// does not arrive.
///
/// # Errors
/// No server answers at the start, or for ten seconds; the server reports an error; or the first
/// error of `on_message`.
pub fn follow(
    servers: &str,
    subject: &str,
    queue: Option<&str>,
    mut on_message: impl FnMut(&mut Client, Message) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut client = Client::connect(servers)?;
    let stop = stop_socket()?; // until here, a signal ends the process at once
    loop {
        let sid = client.subscribe(subject, queue)?;
        client.flush()?;
        info!("subscribed to {subject}");
        match receive(&mut client, &stop, &mut on_message)? {
            End::Stopped => return drain(&mut client, &sid, &stop, &mut on_message),
            End::Lost(error) => warn!("the server is lost: {error:#}"),
        }
        let Some(next) = reconnect(servers, &stop)? else { return Ok(()) };
        client = next;
    }
}

fn receive(
    client: &mut Client,
    stop: &UnixStream,
    on_message: &mut impl FnMut(&mut Client, Message) -> anyhow::Result<()>,
) -> anyhow::Result<End> {
    loop {
        let has_input = client.has_buffered();
        let timeout = if has_input { Duration::ZERO } else { MAX_SILENCE };
        let mut fds = [client.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::try_from(timeout)?) {
            Ok(_) if fds[1].any() == Some(true) => return Ok(End::Stopped),
            Ok(0) if !has_input => {
                let reason = format!("no sign of life for {} s", MAX_SILENCE.as_secs());
                return Ok(End::Lost(io::Error::other(reason).into()));
            }
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match client.next(Instant::now() + MAX_SILENCE) {
            Ok(Event::Message(message)) => on_message(client, message)?,
            Ok(Event::Pong | Event::Handled) => {}
            Err(error) if error.is::<io::Error>() => return Ok(End::Lost(error)),
            Err(error) => return Err(error),
        }
    }
}

/// Ends the subscription, and waits for the messages that the server had sent to us by then. Without
/// that, jobs that a queue group has given to this member would be lost.
fn drain(
    client: &mut Client,
    sid: &str,
    stop: &UnixStream,
    on_message: &mut impl FnMut(&mut Client, Message) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    client.unsubscribe(sid, None)?;
    client.ping()?;
    // A second SIGINT or SIGTERM ends it at once.
    stop.set_nonblocking(true)?;
    let mut signals = [0; 8];
    let _ = (&*stop).read(&mut signals);
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    loop {
        match client.next(deadline).context("stopped before the server confirmed it")? {
            Event::Message(message) => on_message(client, message)?,
            Event::Pong => return Ok(()),
            Event::Handled => {}
        }
        if matches!((&*stop).read(&mut signals), Ok(count) if count > 0) {
            bail!("stopped before the server confirmed it");
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
