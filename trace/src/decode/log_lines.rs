//! The lines of the server's log that report what the kernel has done.
//!
//! A trace of a server on `io_uring` contains no call that reads or accepts. The log does:
//! `copy: recv(8) = 6` and `127.0.0.1:41254 connected`.

use super::Decoder;
use crate::call::{Call, Phase};
use crate::strace::{Nanos, leading_number};
use crate::syscalls::Direction;

impl Decoder<'_> {
    /// Reads a write to stderr. Returns `None` for any other call, for other lines of the log, and
    /// for servers whose system calls show everything.
    pub(super) fn log_line(&self, name: &str, args: &str, at: Nanos) -> Option<Call> {
        if !(self.server.notes.kernel_copies && name == "write" && args.starts_with('2')) {
            return None;
        }
        let mut call = Call {
            name: String::new(),
            args: args.to_owned(),
            result: String::new(),
            start: at,
            end: at,
            blocked_until: None,
            phase: Phase::Copying,
            label: String::new(),
            outcome: String::new(),
            minor: false,
            would_block: false,
            can_block: false,
            client: None,
            copied: None,
            pair: None,
            step: None,
            from_log: true,
        };
        if let Some((peer, _)) = args.split_once(" connected") {
            let client = self.sockets.client_at_port(peer.rsplit(':').next()?)?;
            "accept".clone_into(&mut call.name);
            call.label.clone_from(&call.name);
            call.outcome = format!("= {}", self.client_name(client));
            call.client = Some(client);
            return Some(call);
        }
        let (operation, rest) = args.split_once("copy: ")?.1.split_once('(')?;
        let (fd, rest) = rest.split_once(") = ")?;
        let count: u64 = leading_number(rest)?;
        let client = self.sockets.client_of_number(fd)?;
        let is_output = operation.contains("send") || operation.contains("write");
        let direction = if is_output { Direction::Out } else { Direction::In };
        operation.clone_into(&mut call.name);
        call.label = format!("{operation}({})", self.client_name(client));
        call.outcome = if count == 0 { "= 0, end".to_owned() } else { format!("= {count}") };
        call.client = Some(client);
        call.copied = Some((direction, count));
        Some(call)
    }
}
