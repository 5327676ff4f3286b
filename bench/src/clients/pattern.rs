//! The bytes that the clients send. They show where in which stream they belong.

/// A prime number, so that no message size divides it: two messages of a stream have the same
/// bytes only after this many messages.
const PERIOD: usize = 65_521;

/// The longest slice that [`Pattern::at`] returns.
pub const MAX_SLICE: usize = 64 * 1024;

/// Random bytes that repeat after [`PERIOD`], with another start in each stream.
///
/// A byte that is lost, duplicated or changed, two messages in the wrong order, and the bytes of
/// another stream all differ from what is expected at their place. Checking takes one `memcmp`,
/// and sending takes no copy.
#[derive(Debug)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        let mut bytes = vec![0; PERIOD];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        bytes.extend_from_within(..);
        bytes.extend_from_within(..PERIOD);
        Self(bytes)
    }

    /// Returns `count` bytes of a stream from `offset` on.
    pub fn at(&self, stream: usize, offset: u64, count: usize) -> &[u8] {
        let start = (offset + stream as u64 * 7919) % PERIOD as u64;
        &self.0[start as usize..][..count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_a_stream_are_consecutive() {
        let pattern = Pattern::new();
        for offset in [0, 1, PERIOD as u64 - 1, PERIOD as u64, 3 * PERIOD as u64 + 5] {
            let long = pattern.at(3, offset, MAX_SLICE);
            assert_eq!(&long[1000..], pattern.at(3, offset + 1000, MAX_SLICE - 1000));
        }
    }

    #[test]
    fn streams_and_messages_differ() {
        let pattern = Pattern::new();
        let message = pattern.at(0, 0, 64);
        for stream in 1..6000 {
            assert_ne!(message, pattern.at(stream, 0, 64), "stream {stream}");
        }
        for number in 1..60_000 {
            assert_ne!(message, pattern.at(0, number * 64, 64), "message {number}");
        }
    }
}
