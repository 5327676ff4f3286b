//! What the servers share: the command line, the log, sockets, signals, and the rules of the chat
//! room. Each server has its wait in its own file. (Of these functions, only [`accept`] may wait for
//! a client.)
//!
//! - [`run`] handles the command line, the log, and errors at start. [`prepare`] and [`fail`] are parts
//!   of it, for programs with a command line of their own. [`loop_count`] parses the argument [`LOOPS`].
//! - [`listen`] opens the listening socket ([`listen_shared`] opens several on the same address),
//!   [`accept`] takes a connection from it, and [`announce`] prints that the server listens.
//!   [`bind_udp`] opens a socket for datagrams.
//! - [`Connection`] is an echo connection on a non-blocking socket. [`read`] and [`write()`] are its
//!   two system calls.
//! - [`stop_socket`], [`stop_flag`] and [`exit_on_stop`] are three ways to handle SIGINT and
//!   SIGTERM, one for each kind of wait.
//! - [`lock()`] locks a mutex. [`chat`] has the rules of the chat room.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "these servers use system calls of Linux; on macOS or Windows, build them in a Linux container or in WSL 2"
);

pub mod chat;
mod connection;
mod lock;
mod signals;
mod socket;
mod start;
mod stderr;

pub use chat::{CHAT_ADDR, IDLE};
pub use connection::{BUFFER_SIZE, Connection, Progress, read, write};
pub use lock::lock;
pub use signals::{exit_on_stop, stop_flag, stop_socket};
pub use socket::{Accepted, accept, announce, bind_udp, listen, listen_shared};
pub use start::{Arg, ECHO_ADDR, LOOPS, fail, loop_count, prepare, run};
