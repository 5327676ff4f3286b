//! HTTP/1.1 (RFC 9112), as far as a small client and a small server need it: GET, one request per
//! connection.
//!
//! httparse parses heads and chunk sizes. The rules that decide where a message ends are in
//! `src/http/framing.rs`. A message whose end is ambiguous is never accepted: two parties that read it
//! differently can be made to take the rest of one message for the next (request smuggling).

mod body;
mod framing;
mod head;
mod request;
mod response;
mod url;

pub use request::{Refusal, Request, read_request};
pub use response::{Response, read_response};
pub use url::Url;
