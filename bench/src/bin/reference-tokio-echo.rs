//! tokio, used as its documentation shows for an echo server: a task per connection that reads,
//! and writes all that it has read.
//!
//! Two things differ from the example on tokio's front page, so that the benchmark compares models
//! and not settings: Nagle's algorithm is off, and the buffer holds a message of 16 KiB.

use std::{env, io};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = TcpListener::bind(addr).await?;
    println!("reference-tokio-echo listening on {}", listener.local_addr()?);
    loop {
        let (mut socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            socket.set_nodelay(true)?;
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let count = socket.read(&mut buffer).await?;
                if count == 0 {
                    return io::Result::Ok(());
                }
                socket.write_all(&buffer[..count]).await?;
            }
        });
    }
}
