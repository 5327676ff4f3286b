//! The library of the five modes: what they share, and parts of single modes. The modes themselves
//! are in `src/bin`, one file per mode.
//!
//! - [`run_server`] and [`serve`]: a server with one thread per connection.
//! - [`connect()`] and [`DeadlineStream`]: one deadline for a whole call: connecting, writing and
//!   reading.
//! - [`read_line`], [`one_line`], [`printable`]: text in line protocols and on terminals.
//! - [`ask`] and [`read_question`]: a question of one line, and an answer of several
//!   lines.
//! - [`Caller`]: the client of the mode `callback`, with its table of callbacks; [`worker`] is its
//!   server.
//! - [`Gossip`]: a node of the mode `decentralised`.
//! - [`http`], [`nats`]: the two public protocols that the modes speak.
//! - [`Process`]: a process that a demonstration starts.

pub mod http;
pub mod nats;
pub mod worker;

mod caller;
mod connect;
mod deadline;
mod gossip;
mod line;
mod process;
mod question;
mod roles;
mod server;

pub use caller::{Callback, Caller};
pub use connect::{connect, connect_any, resolve};
pub use deadline::DeadlineStream;
pub use gossip::Gossip;
pub use line::{LineTooLong, one_line, printable, read_line};
pub use process::Process;
pub use question::{END_OF_ANSWER, ask, read_question};
pub use roles::{Misuse, run_roles};
pub use server::{MAX_CONNECTIONS, run_server, serve};
