//! What a client receives.

/// A message that another client, or the server itself, has published.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// The ID of our subscription.
    pub sid: String,
    /// Where a reply is to be published.
    pub reply: Option<String>,
    /// The first line of the header, or nothing. A server reports with `NATS/1.0 503` that a
    /// request has no responders.
    pub status: String,
    /// The content.
    pub payload: Vec<u8>,
}

/// Something that a server has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Message),
    /// The server has done everything that was sent before the PING.
    Pong,
    /// Something that the client has handled itself.
    Handled,
}

impl Message {
    /// Makes a message from the words of its line, and from the bytes that followed the line. The
    /// first `header_size` bytes of `content` are the header.
    #[must_use]
    pub fn new(
        subject: &str,
        sid: &str,
        reply: Option<&str>,
        header_size: usize,
        mut content: Vec<u8>,
    ) -> Self {
        let payload = content.split_off(header_size);
        let header = String::from_utf8_lossy(&content);
        Self {
            subject: subject.to_owned(),
            sid: sid.to_owned(),
            reply: reply.map(str::to_owned),
            status: header.lines().next().unwrap_or_default().trim_end().to_owned(),
            payload,
        }
    }
}
