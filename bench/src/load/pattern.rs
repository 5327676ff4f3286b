//! What is sent: bytes that show by themselves where in which stream they belong.

/// Prime, so that no message size divides it: the same bytes come at the same place in a message
/// only after so many messages.
const PERIOD: usize = 65_521;

/// The longest stretch that [`Pattern::at`] returns.
pub const LONGEST: usize = 64 * 1024;

/// Random bytes that repeat after [`PERIOD`], with another start for each stream.
///
/// A byte lost, doubled or changed, two messages swapped, another stream's bytes: each differs
/// from what is expected there. To compare is a `memcmp`, and to send takes no copy.
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

    /// `count` bytes of a stream from `offset` on.
    pub fn at(&self, stream: usize, offset: u64, count: usize) -> &[u8] {
        let start = (offset + stream as u64 * 7919) % PERIOD as u64;
        &self.0[start as usize..][..count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_where_it_left_off() {
        let pattern = Pattern::new();
        for offset in [0, 1, PERIOD as u64 - 1, PERIOD as u64, 3 * PERIOD as u64 + 5] {
            let whole = pattern.at(3, offset, LONGEST);
            assert_eq!(&whole[1000..], pattern.at(3, offset + 1000, LONGEST - 1000));
        }
    }

    #[test]
    fn tells_streams_and_messages_apart() {
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
