//! Mistake: the server writes its log with a call that can block.
//!
//! Symptom: the server stops serving when nobody reads its log: the log collector hangs, or someone
//! has pressed Ctrl-S in the terminal.
//!
//! Rule: write(2) to a full pipe, or to a terminal that is stopped, blocks until somebody reads.
//! stderr is such a file more often than not. (Do not set `O_NONBLOCK` on stderr: other processes
//! share its file description.)
//!
//! Reproduce:
//! 1. Start `cargo run -p pitfalls --bin log-blocks-server`, and press Ctrl-S.
//! 2. In a second terminal: `echo hello | timeout 2 nc 127.0.0.1 7000` prints nothing.
//! 3. In the first terminal: Ctrl-Q. The server continues.
//!
//! Correct: `common/src/stderr.rs` drops and counts the lines for which there is no room.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use common::{BUFFER_SIZE, Connection, ECHO_ADDR, run};
use nix::sys::epoll::EpollFlags;
use pitfalls::{echo_step, epoll};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let mut buffer = vec![0; BUFFER_SIZE];
        let new = |stream: TcpStream, peer: SocketAddr| {
            let _ = writeln!(io::stderr(), "{peer} is served"); // <- the mistake
            Connection::new(stream, peer)
        };
        epoll(&addr, EpollFlags::EPOLLIN, new, |epoll, connection, _| {
            echo_step(epoll, connection, &mut buffer)
        })
    })
}
