//! Mistake: the thread that accepts hands each connection to an event loop, and waits until the loop
//! has taken it.
//!
//! Symptom: while one loop is busy, no client can connect, although the other loops are idle.
//!
//! Rule: the acceptor must wait for new connections only. It puts the connection into a mailbox that
//! has space (an unbounded queue: the limit on file descriptors limits it), and wakes the loop.
//!
//! Reproduce (with gdb):
//! 1. `cargo run -p pitfalls --bin acceptor-waits-for-loop`
//! 2. In a second terminal: `gdb -p $(pgrep -x acceptor-waits) -ex 'set non-stop on'`. In gdb, enter
//!    `continue -a &` and `interrupt`: it stops one thread.
//! 3. In a third terminal: `for i in {1..9}; do echo hello | timeout 2 nc 127.0.0.1 7000; done`
//!    prints fewer than nine lines.
//!
//! Correct: `Mailbox::put` in `epoll-echo/src/bin/epoll-echo-handoff.rs`.

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use common::{Accepted, ECHO_ADDR, accept, announce, exit_on_stop, listen, run};
use pitfalls::{ACCEPT_RETRY, spawn_echo};

const LOOPS: usize = 3;

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let listener = listen(&addr)?;
        let mut loops = Vec::new();
        for number in 0..LOOPS {
            // <- the mistake: a channel without space, whose `send` waits for `recv`
            let (sender, mailbox) = mpsc::sync_channel(0);
            let thread = thread::Builder::new().name(format!("loop {number}"));
            thread
                .spawn(move || mailbox.into_iter().for_each(|(it, peer)| spawn_echo(it, peer)))?;
            loops.push(sender);
        }
        exit_on_stop()?;
        announce(listener.local_addr()?);
        for next in loops.iter().cycle() {
            let (stream, peer) = loop {
                match accept(&listener) {
                    Accepted::Connection(stream, peer) => break (stream, peer),
                    Accepted::WouldBlock | Accepted::Pause => thread::sleep(ACCEPT_RETRY),
                }
            };
            next.send((stream, peer))?;
        }
        Ok(())
    })
}
