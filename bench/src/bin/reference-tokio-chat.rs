//! tokio, used as its documentation shows for a chat: a task per client that selects between the
//! client's lines and an unbounded channel, and a room behind a lock that sends to all channels.
//!
//! It follows the rules of this project's chat as far as the load generator needs them: the
//! greeting, the lines about who joined and left, and the lines of the other clients.

use std::collections::HashMap;
use std::env;
use std::sync::Arc;

use anyhow::Result;
use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_util::codec::{Framed, LinesCodec};

#[derive(Default)]
struct Room {
    clients: HashMap<u64, mpsc::UnboundedSender<String>>,
    guests: u64,
}

impl Room {
    fn broadcast(&self, sender: u64, line: &str) {
        for (&client, channel) in &self.clients {
            if client != sender {
                // Fails for a client that is disconnecting.
                let _ = channel.send(line.to_owned());
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let addr = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7001".to_owned());
    let listener = TcpListener::bind(addr).await?;
    println!("reference-tokio-chat listening on {}", listener.local_addr()?);
    let room = Arc::new(Mutex::new(Room::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        let room = Arc::clone(&room);
        tokio::spawn(async move { serve(&room, stream).await });
    }
}

async fn serve(room: &Mutex<Room>, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(1024));
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (guest, others) = {
        let mut room = room.lock().await;
        room.guests += 1;
        let guest = room.guests;
        room.broadcast(guest, &format!("* guest{guest} joined"));
        let others = room.clients.len();
        room.clients.insert(guest, sender);
        (guest, others)
    };
    let result = relay(room, guest, others, &mut lines, &mut receiver).await;
    let mut room = room.lock().await;
    room.clients.remove(&guest);
    room.broadcast(guest, &format!("* guest{guest} left"));
    result
}

async fn relay(
    room: &Mutex<Room>,
    guest: u64,
    others: usize,
    lines: &mut Framed<TcpStream, LinesCodec>,
    receiver: &mut mpsc::UnboundedReceiver<String>,
) -> Result<()> {
    lines.send(format!("* you are guest{guest}; {others} others here")).await?;
    loop {
        tokio::select! {
            Some(line) = receiver.recv() => lines.send(line).await?,
            line = lines.next() => match line {
                Some(line) => {
                    let line = format!("guest{guest}: {}", line?);
                    room.lock().await.broadcast(guest, &line);
                }
                None => return Ok(()),
            }
        }
    }
}
