//! Prints the conversation of the clients with the server, for `contract --trace`.

use std::net::TcpStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::probe::quote;

static ENABLED: AtomicBool = AtomicBool::new(false);
static START: OnceLock<Instant> = OnceLock::new();

/// Prints every event from now on to stderr.
pub fn enable() {
    START.get_or_init(Instant::now);
    ENABLED.store(true, Ordering::Relaxed);
}

fn print(who: &str, what: &str) {
    let time = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    eprintln!("{time:9.4} {who:<14} {what}");
}

fn name(stream: &TcpStream) -> String {
    stream.local_addr().map_or_else(|_| "client".to_owned(), |it| format!("client {}", it.port()))
}

/// Something happened on the connection of a client.
pub fn event(stream: &TcpStream, what: &str) {
    if ENABLED.load(Ordering::Relaxed) {
        print(&name(stream), what);
    }
}

/// A client sends these bytes.
pub fn sent(stream: &TcpStream, bytes: &[u8]) {
    if ENABLED.load(Ordering::Relaxed) {
        print(&name(stream), &format!("-> {}", quote(bytes)));
    }
}

/// A client has received these bytes.
pub fn received(stream: &TcpStream, bytes: &[u8]) {
    if ENABLED.load(Ordering::Relaxed) {
        print(&name(stream), &format!("<- {}", quote(bytes)));
    }
}

/// Something happened to the server.
pub fn server_event(what: &str) {
    if ENABLED.load(Ordering::Relaxed) {
        print("server", what);
    }
}
