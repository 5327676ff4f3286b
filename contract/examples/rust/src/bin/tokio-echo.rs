//! An echo server on tokio, a task per client, as its documentation teaches it.
//!
//! Documentation: <https://docs.rs/tokio/latest/tokio/#a-tcp-echo-server>

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 1024];
            loop {
                let count = match stream.read(&mut buffer).await {
                    Ok(0) => return,
                    Ok(count) => count,
                    Err(error) => return eprintln!("read: {error}"),
                };
                if let Err(error) = stream.write_all(&buffer[..count]).await {
                    return eprintln!("write: {error}");
                }
            }
        });
    }
}
