//! What every server here shares, and nothing that tells them apart.
//!
//! - [`run`] and, for a program of several roles, [`run_roles`]: the command line, the log, and
//!   one clear line when the start fails.
//! - [`listen`], [`accept`] and [`accepted`]: the listening socket, and what `accept(2)` can
//!   answer; [`bind_udp`] and [`announce`]: the socket for datagrams.
//! - [`Connection`]: the *copy*, the second phase of an input operation, for the models
//!   whose sockets do not block; [`read`] and [`write()`] are its two halves. The first phase, the
//!   *wait*, is what the servers are about.
//! - [`chat`]: the rules of the chat room, for the servers that are about handling.
//! - [`stop_socket`], [`stop_flag`], [`exit_on_stop`]: SIGINT and SIGTERM as each model can hear
//!   them.
//! - [`lock()`]: mutexes, for the servers with several threads.

pub mod chat;
mod connection;
mod lock;
mod signals;
mod socket;
mod start;

pub use connection::{BUFFER, Connection, Next, read, write};
pub use lock::lock;
pub use signals::{exit_on_stop, stop_flag, stop_socket};
pub use socket::{Accepted, accept, accepted, announce, bind_udp, listen};
pub use start::{Arg, CHAT_ADDR, ECHO_ADDR, IDLE, Misuse, run, run_roles};
