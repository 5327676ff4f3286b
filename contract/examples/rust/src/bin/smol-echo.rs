//! An echo server on smol, a task per client, as its examples teach it.
//!
//! Documentation: <https://docs.rs/smol/latest/smol/>

use smol::{Async, io};
use std::net::{SocketAddr, TcpListener};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    smol::block_on(async {
        let listener = Async::<TcpListener>::bind(address)?;
        loop {
            let (stream, _) = listener.accept().await?;
            smol::spawn(async move {
                if let Err(error) = io::copy(&stream, &mut &stream).await {
                    eprintln!("{error}");
                }
            })
            .detach();
        }
    })
}
