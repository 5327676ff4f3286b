//! What users of a NATS client do, with async-nats: `async-nats-client HOST:PORT`.
//!
//! `publish-subscribe respond HOST:PORT time noon` must run.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{ConnectOptions, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

/// How long to wait for something that is certain to happen. A busy machine may be slow.
const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let server = env::args().nth(1).context("usage: async-nats-client HOST:PORT")?;
    let client = ConnectOptions::new().request_timeout(Some(TIMEOUT)).connect(&server).await?;
    let mut plain = client.subscribe("sport.>").await?;
    let mut workers = [
        client.queue_subscribe("jobs", "workers".into()).await?,
        client.queue_subscribe("jobs", "workers".into()).await?,
    ];
    client.flush().await?;
    client.publish("sport.chess", "draw".into()).await?;
    ensure!(next(&mut plain).await? == "draw");
    for job in 0..100 {
        client.publish("jobs", job.to_string().into()).await?;
    }
    let mut jobs = Vec::new();
    while jobs.len() < 100 {
        let [one, two] = &mut workers;
        let job = tokio::select! { job = next(one) => job?, job = next(two) => job? };
        jobs.push(job.parse::<u32>()?);
    }
    jobs.sort_unstable();
    ensure!(jobs.into_iter().eq(0..100), "a job is lost or was delivered twice");

    let reply = client.request("time", "now".into()).await?;
    ensure!(reply.payload == "noon", "{reply:?}");
    client.drain().await?;
    Ok(())
}

/// Waits for the next message, and returns its payload.
async fn next(subscriber: &mut Subscriber) -> Result<String> {
    let message = timeout(TIMEOUT, subscriber.next()).await?.context("the subscription ended")?;
    Ok(String::from_utf8(message.payload.to_vec())?)
}
