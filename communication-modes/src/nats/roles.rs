//! The client roles of `publish-subscribe`. Each checks its arguments before it connects.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::client::Client;
use super::follow::follow;
use super::subject::{check_pattern, check_subject, check_word};
use crate::printable;

/// Prints each message until SIGINT or SIGTERM.
///
/// # Errors
/// An argument is invalid, or no server answers, or stdout is closed.
pub fn subscribe(servers: &str, subject: &str, queue: Option<&str>) -> anyhow::Result<()> {
    check_pattern(subject)?;
    queue.map_or(Ok(()), |queue| check_word("the queue", queue))?;
    follow(servers, subject, queue, |_, message| {
        let (subject, payload) = (message.subject, String::from_utf8_lossy(&message.payload));
        let line = format!("{}: {}\n", printable(&subject), printable(&payload));
        Ok(io::stdout().write_all(line.as_bytes())?)
    })
}

/// Answers each request with `text` until SIGINT or SIGTERM.
///
/// # Errors
/// An argument is invalid, or no server answers.
pub fn respond(servers: &str, subject: &str, text: &str) -> anyhow::Result<()> {
    check_pattern(subject)?;
    follow(servers, subject, None, |client, message| match message.reply {
        // Another client has chosen the subject of the reply. An invalid one must not end this
        // program.
        Some(reply) if check_subject(&reply).is_ok() => {
            match client.publish(&reply, None, text.as_bytes()) {
                // The connection is lost. The next wait for a message reports that.
                Err(error) if error.is::<io::Error>() => Ok(()),
                result => result,
            }
        }
        _ => Ok(()),
    })
}

/// Publishes one message, and waits until the server has routed it.
///
/// # Errors
/// An argument is invalid, or no server answers, or the server reports an error.
pub fn publish(servers: &str, subject: &str, text: &str) -> anyhow::Result<()> {
    check_subject(subject)?;
    let mut client = Client::connect(servers)?;
    client.publish(subject, None, text.as_bytes())?;
    client.flush()
}

/// Sends one request, and prints the reply.
///
/// # Errors
/// An argument is invalid, no server answers, no reply arrives in time, or nobody has subscribed.
pub fn request(servers: &str, subject: &str, text: &str, seconds: &str) -> anyhow::Result<()> {
    check_subject(subject)?;
    let timeout = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let deadline = deadline.with_context(|| format!("{seconds:?} is not a number of seconds"))?;
    let mut client = Client::connect(servers)?;
    let reply = client.request(subject, text.as_bytes(), deadline);
    let reply = reply.map_err(|error| match error.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == ErrorKind::TimedOut => {
            anyhow!("no reply on {subject} within {seconds} s")
        }
        _ => error,
    })?;
    let line = format!("{}\n", printable(&String::from_utf8_lossy(&reply)));
    Ok(io::stdout().write_all(line.as_bytes())?)
}
