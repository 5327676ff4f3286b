//! The harness of the black-box suite: it starts a real binary, speaks TCP to it, and looks at
//! it from outside, through `/proc`.
//!
//! - [`binaries`]: builds the servers, once.
//! - [`server`]: what a server is ([`Server`]), how it is started ([`Launch`]), and the guard
//!   that it runs under ([`Running`]).
//! - [`client`]: one peer with blocking calls, for conversations; many of them, for crowds.
//! - [`exchange`]: peers that send and receive at the same time, for transfers.
//! - [`flood`]: a peer that sends and receives as fast as it can, from threads of its own.
//! - [`guest`]: one guest of a chat room with blocking calls, for conversations.
//! - [`gathering`]: many guests who talk and listen at the same time.
//! - [`pattern`]: bytes that show a loss, a doubling and a swap.
//! - [`figures`]: processor time, memory, descriptors, threads and processes of a server.
//! - [`workspace`]: the packages, as Cargo knows them.
//! - [`markdown`]: what a page of the documentation says that can be tried.
//! - [`wait`]: waiting for an event, with a deadline.
//!
//! Nothing here panics, and every wait ends: a server that is wrong makes a test fail with a
//! sentence, in bounded time. Tests that expect exactly that build on it.

// Every error here is the failure of a test, and says what went wrong.
#![allow(clippy::missing_errors_doc)]

pub mod binaries;
pub mod client;
pub mod exchange;
pub mod figures;
pub mod flood;
pub mod gathering;
pub mod guest;
pub mod markdown;
pub mod pattern;
pub mod server;
pub mod wait;
pub mod workspace;

pub use client::Client;
pub use exchange::Exchange;
pub use figures::Figures;
pub use flood::Flood;
pub use gathering::Talker;
pub use guest::Guest;
pub use markdown::Page;
pub use server::{Launch, Running, Server};
pub use wait::{PATIENCE, patience, until};
pub use workspace::{Binary, Workspace};
