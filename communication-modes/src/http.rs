//! HTTP/1.1 (RFC 9112), as far as a small client and a small server need it: GET and HEAD, with one
//! request per connection.
//!
//! httparse parses heads and chunk sizes. The rules that decide where a message ends are in
//! `src/http/framing.rs`. If the end of a message is ambiguous, two parties can see it in different
//! places. One of them then reads a part of the message as the next message (request smuggling).
//! Therefore an ambiguous message is never accepted.

mod body;
mod framing;
mod head;
mod request;
mod response;
mod url;

pub use request::{Refusal, Request, read_request};
pub use response::{Response, read_response};
pub use url::Url;
