//! Mistake: after a wait, the server checks its deadlines before it reads what has arrived.
//!
//! Symptom: clients that sent something in time are disconnected as idle, after the server was
//! stopped for a while (SIGSTOP, a debugger, a machine that swaps).
//!
//! Rule: while a process does not run, time passes and data arrives. When it runs again, the
//! deadline has passed, and the data is there too. An idle deadline counts only if no input is
//! waiting, so check for input first.
//!
//! Reproduce:
//! 1. Start `cargo run -p pitfalls --bin timer-before-input 127.0.0.1:7001 5`
//! 2. In a second terminal: `nc 127.0.0.1 7001`
//! 3. In the first terminal, within five seconds: Ctrl-Z.
//! 4. In the second terminal, within five seconds: enter a line.
//! 5. Ten seconds later, in the first terminal: `fg`. `nc` prints the goodbye.
//!
//! Correct: `Worker::on_timeout` in `reactor-chat/src/worker.rs` looks for unread input before it
//! dismisses a client.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::chat::parse_idle;
use common::{CHAT_ADDR, IDLE, run};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pitfalls::{close_lingering, threads};

fn main() -> ExitCode {
    run([CHAT_ADDR, IDLE], |[addr, seconds]| {
        let idle = parse_idle(&seconds)?.unwrap_or(Duration::MAX);
        threads(&addr, move |stream| serve(&stream, idle))
    })
}

/// A room for one client. It answers all input like `/who`, and disconnects an idle client.
fn serve(mut stream: &TcpStream, idle: Duration) -> io::Result<()> {
    let mut last_input = Instant::now();
    stream.write_all(b"* you are guest1; 0 others here; /help lists the commands\n")?;
    loop {
        let left = idle.saturating_sub(last_input.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut watched, timeout); // after EINTR, it is not readable
        if last_input.elapsed() >= idle {
            // <- the mistake: there may be input
            let seconds = idle.as_secs();
            stream.write_all(format!("* idle for {seconds} s, goodbye\n").as_bytes())?;
            return close_lingering(stream);
        }
        if watched[0].any() == Some(true) {
            if stream.read(&mut [0; 1024])? == 0 {
                return Ok(());
            }
            stream.write_all(b"* here: guest1\n")?;
            last_input = Instant::now();
        }
    }
}
