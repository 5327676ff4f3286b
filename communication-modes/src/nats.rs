//! NATS, a protocol for publish-subscribe: its lines, the parts of a broker, and a client. The
//! broker itself is `src/bin/publish-subscribe.rs`.
//!
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>

mod client;
mod event;
mod follow;
mod options;
mod peer;
mod protocol;
mod roles;
mod server_addr;
mod subject;
mod subscriptions;

pub use client::Client;
pub use event::{Event, Message};
pub use follow::follow;
pub use options::Options;
pub use peer::Peer;
pub use protocol::{MAX_LINE, MAX_PAYLOAD, Op, greeting, parse, read_payload};
pub use roles::{publish, request, respond, subscribe};
pub use subject::{is_pattern, is_subject};
pub use subscriptions::Subscriptions;
