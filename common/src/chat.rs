//! The chat room: the rules of the chat servers, as code without a clock and without sockets.
//!
//! The life of a line:
//! 1. The server reads bytes from a client and passes them to [`Room::input`].
//! 2. The room splits them into lines. A command gets a reply; any other line becomes
//!    `guest1: the text` in the output of every other client.
//! 3. The room lists the clients that have output now, and no writer yet, in [`Effects::write`].
//! 4. For each of them, the server takes the output out of the room ([`Room::take_output`]), writes
//!    it, and reports how many bytes the socket took. It repeats this until the room has no more.
//!
//! The end of a client: it sends `/quit` or FIN, or it is idle for too long. From then on it is
//! *departing*: it is no longer in the room, and gets what was pending for it. When that has been
//! written, the server closes the connection if the client has sent its FIN. If not, the server
//! shuts down its sending direction, and discards input until the FIN arrives. To close earlier
//! would be wrong: close(2) with unread input sends RST. RST discards what the server has not sent,
//! and on many systems what the client has not read (RFC 9293, 3.6.1). A limit on bytes and on time
//! ends the wait. This is called a lingering close. Pitfall: close-with-unread-input
//!
//! Three limits keep memory bounded and the server fair:
//! - [`MAX_LINE`]: the longest line.
//! - [`MAX_PENDING`]: the most output of one client. A client with more pending output is
//!   disconnected, and delays no other client. Usually it does not read. It may also have asked for
//!   too much at once (`/who` in a large room).
//! - [`INPUT_BUDGET`]: the most input that a server processes before it writes. Without this limit,
//!   a server that reads from many clients before it writes would exceed `MAX_PENDING` itself, and
//!   disconnect clients that do read.
//!
//! In a server with several workers, a mutex protects the room. A thread locks it for one call at a
//! time. No call blocks, and none takes another lock. One call passes a line on to all clients, so
//! all clients see the lines in the same order. Pitfall: lock-while-broadcasting

use std::fmt::{self, Display, Formatter};
use std::mem;
use std::time::Duration;

use anyhow::Context;

use crate::start::{Arg, LISTEN_ON};

mod computation;
mod output;
mod room;
mod text;

pub use computation::{Computation, MAX_NUMBER};
pub use output::{Output, has_unread_input, shut_down_writing, write_output};
pub use room::Room;

/// The most bytes in a line, without the line end.
pub const MAX_LINE: usize = 1024;

/// The most bytes of output that may be pending for a client.
pub const MAX_PENDING: usize = 256 * 1024;

/// Size of a read from a client, in bytes.
pub const READ_SIZE: usize = 4096;

/// A server processes at most this many bytes of input. Then it first tries to write all output of
/// this input.
///
/// It allows 120 KiB of broadcast for each client: [`Effects::take_charge`] charges a read for its
/// bytes, or for a tenth of its broadcast if that is more. Twice that is below [`MAX_PENDING`]: one
/// budget may be on its way to the sockets while the next one is processed. Replies are not
/// charged: they go only to the client that asked.
pub const INPUT_BUDGET: usize = 3 * READ_SIZE;

/// How many bytes of broadcast a byte of input makes at most, if the line begins and ends in the
/// same read: `x` and `\n` become `abcdefghijklmnop: x` and `\n`.
const MAX_EXPANSION: usize = 10;

/// How long a departing client may take to read its last lines and to close the connection.
const LINGER_TIME: Duration = Duration::from_secs(10);

/// How much input of a departing client is discarded before the connection is closed anyway.
const MAX_DISCARDED: usize = 1024 * 1024;

/// A client that seems idle is looked at again after this time, before it is disconnected. After
/// the process was stopped, or on a busy machine, the first look comes late, before the server has
/// read the client's input. The second look gives the server time to read it.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// The most clients that [`Room::expire`] returns at once. The server writes before it calls
/// `expire` again. Each client that leaves causes a line for all clients that remain. If a large
/// room became idle at once, these lines would exceed [`MAX_PENDING`].
const MAX_DISMISSED: usize = 64;

/// The address on which a chat server listens.
pub const CHAT_ADDR: Arg = Arg { name: "ADDR", default: "127.0.0.1:7001", meaning: LISTEN_ON };

/// How long a client of a chat server may be idle, in seconds.
pub const IDLE: Arg = Arg {
    name: "IDLE",
    default: "300",
    meaning: "seconds after which an idle client is disconnected; 0 for never",
};

/// Parses the argument `IDLE`, a number of seconds. Returns `None` for 0, which means never.
///
/// # Errors
/// It is not a number of seconds.
pub fn parse_idle(text: &str) -> anyhow::Result<Option<Duration>> {
    let seconds: u32 =
        text.parse().with_context(|| format!("IDLE is a number of seconds, not {text:?}"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

/// Identifies a client. Ids count up from 0 and are not reused, so a late event cannot be taken for
/// an event of a newer client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// What has arrived from a client, for servers that pass it from one thread to another.
/// [`Room::process`] takes it.
#[derive(Debug)]
pub enum Input {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The client's FIN: it will send no more.
    Fin,
    /// An error: the connection has failed, in a read or in a write.
    #[allow(dead_code, reason = "a server with one thread disconnects the client at once")]
    Failure,
}

impl Input {
    /// Returns the number of bytes.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Fin | Self::Failure => 0,
        }
    }
}

/// What the server must do after a call of [`Room`]. The calls append to it, and the server empties
/// it. Clients in it may have left since; the room ignores calls about them.
#[derive(Debug, Default)]
pub struct Effects {
    /// Clients that need a writer: call [`Room::take_output`] for each. A client is listed again
    /// only after its writer has got [`WriterStep::Wait`], so a client never has two writers.
    pub write: Vec<Id>,
    /// Clients whose connection must be closed now. The room has forgotten them.
    pub close: Vec<Id>,
    /// Bytes of the lines for all other clients, since the last call of [`Effects::take_charge`].
    broadcast: usize,
}

impl Effects {
    /// Returns what the last input costs of the [`INPUT_BUDGET`]: its number of bytes `input`, or
    /// more.
    ///
    /// It is more if the input ended a line that began in an earlier read. With 256 clients that
    /// have sent 1024 bytes of a line, 256 bytes can produce 256 KiB of output.
    pub fn take_charge(&mut self, input: usize) -> usize {
        input.max(mem::take(&mut self.broadcast).div_ceil(MAX_EXPANSION))
    }
}

/// What the writer of a client does next: the result of [`Room::take_output`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterStep {
    /// Write the output, as soon as the socket takes more.
    Write,
    /// Stop. All output has been written. The next line puts the client into [`Effects::write`].
    Wait,
    /// Shut down writing, and continue to read: the client is departing, and all its output has
    /// been written.
    ShutDown,
    /// Close the connection.
    Close,
}
