//! Mistake: a signal handler sets a flag, and the loop that looks at it blocks in `accept`.
//!
//! Seen: `kill` and Ctrl-C do nothing, until the next client comes.
//!
//! Rule: handlers are installed with `SA_RESTART` by nearly every library (and `signal(3)`):
//! `accept(2)` goes on as if nothing had happened; std repeats it even without. And between the
//! look and the call there is always room for a signal.
//!
//! Show: `cargo run -p pitfalls --bin flag-never-stops`, then Ctrl-C.
//!
//! Right: `exit_on_stop` in `common/src/signals.rs`: where threads block, the handler itself
//! ends the process; `stop_socket`: where they wait for many descriptors, it is one of them.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use common::{Accepted, ECHO_ADDR, accept, announce, listen, run, stop_flag};

fn main() -> ExitCode {
    run([ECHO_ADDR], |[addr]| {
        let stop = stop_flag()?;
        let listener = listen(&addr)?;
        announce(listener.local_addr()?);
        while !stop.load(Ordering::Relaxed) {
            // <- the mistake: nobody comes here
            match accept(&listener) {
                Accepted::Connection(stream, _) => {
                    thread::Builder::new().spawn(move || io::copy(&mut &stream, &mut &stream))?;
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
        Ok(())
    })
}
