//! The contract: what every TCP server must survive, as cases that run against any server.
//!
//! A [`Case`] starts a server ([`Target`]), talks to it over TCP, and observes it from outside,
//! through `/proc`. It knows the server's properties, but not its source code. The integration
//! tests run the cases against every server of this workspace; the program `contract` runs them
//! against any other.
//!
//! - [`catalog`]: the servers of the workspace, and what sets each apart.
//! - [`pitfalls`]: the servers that make one mistake each, and the case that each of them fails.
//! - [`cases`]: the cases, one module per line of the contract.
//! - [`target`]: what a case runs against. [`server`]: starts it, and guards it while it runs.
//! - [`client`], [`transfer`], [`flood`]: one client with blocking calls; clients that send and
//!   receive at the same time; a client that sends as fast as it can.
//! - [`chat_client`], [`chat_session`]: one client of a chat server with blocking calls; many
//!   clients that send and receive at the same time.
//! - [`pattern`]: bytes that reveal a loss, a duplicate or a swap.
//! - [`usage`]: the processor time, memory, file descriptors, threads and processes of a server.
//! - [`workers`]: the threads or processes among which a server distributes its clients.
//! - [`wait`]: waiting with a timeout. [`binaries`]: builds the servers of the workspace.
//!
//! Nothing here panics, and every wait has a timeout: if a server is wrong, the case fails with a
//! sentence in bounded time. The tests of the pitfalls depend on this.

// Every error here is the failure of a case, and says what went wrong.
#![allow(clippy::missing_errors_doc)]

pub mod binaries;
pub mod capture;
pub mod case;
pub mod cases;
pub mod catalog;
pub mod chat_client;
pub mod chat_session;
pub mod client;
pub mod command;
pub mod conversation;
pub mod filter;
pub mod flood;
pub mod guard;
pub mod pattern;
pub mod pitfalls;
pub mod probe;
pub mod server;
pub mod sockets;
pub mod target;
pub mod transfer;
pub mod usage;
pub mod wait;
pub mod workers;

pub use case::Case;
pub use catalog::{Entry, Kind};
pub use chat_client::ChatClient;
pub use chat_session::ChatSession;
pub use client::Client;
pub use flood::Flood;
pub use server::{Launch, Server};
pub use target::{Properties, Target};
pub use transfer::Transfer;
pub use usage::Usage;
pub use wait::{TIMEOUT, timeout, wait_until};
